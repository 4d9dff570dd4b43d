"""`tune --ray` before there is a cluster: what it refuses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from plans import chain

from eetoolkit.cli import main


def test_ray_goes_with_data(tmp_path: Path) -> None:
    bundle = chain(0.5).save(tmp_path / "it.ee")
    found = CliRunner().invoke(main, ["tune", str(bundle), "--record", "it.npz", "--ray", "local"])
    assert found.exit_code == 2
    assert "--ray goes with --data" in found.stderr


def test_without_ray_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    bundle = chain(0.5).save(tmp_path / "it.ee")
    found = CliRunner().invoke(main, ["tune", str(bundle), "--data", "rows", "--ray", "auto"])
    assert found.exit_code == 1
    assert found.stderr == "error: --ray needs ray: install the extra 'ray' (README: Install)\n"
