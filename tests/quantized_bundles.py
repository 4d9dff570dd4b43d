"""What the tests of quantised bundles share: where they write, what they measure by, what bundles answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import eetoolkit as ee
from eetoolkit_runtime.arrays import Array

edit = msgspec.structs.replace
QUICK: dict[str, Any] = {"seconds": 0, "threads": 1}


def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns where to write; temporary files lie in it, of which none may be left."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    return tmp_path


def left(folder: Path) -> list[str]:
    """Returns what was written, and what was left of what is temporary."""
    return sorted(path.name for path in folder.iterdir() if path.name != "temporary") + [
        f"temporary/{path.name}" for path in (folder / "temporary").iterdir()
    ]


def costs(base: ee.Profile, int8_ms: Mapping[str, float], float_ms: float = 1.0) -> Callable[[ee.Bundle], ee.Profile]:
    """Returns what gives a profile of a bundle: each float segment takes `float_ms`, quantised ones as said."""

    def measured(bundle: ee.Bundle) -> ee.Profile:
        plan, said = bundle.manifest, bundle.manifest.quantization
        small = {} if said is None else said.segments
        segments = {
            name: edit(cost, latency=edit(cost.latency, robust_ms=int8_ms[name] if name in small else float_ms))
            for name, cost in base.segments.items()
        }
        return edit(base, segments=segments, files={name: file.sha256 for name, file in plan.files.items()})

    return measured


def folder_bytes(bundle: ee.Bundle) -> int:
    return sum(file.stat().st_size for file in bundle.path.iterdir() if file.name != "manifest.json")


def logits(bundle: ee.Bundle, rows: Array) -> tuple[Array, Array]:
    """Returns what every exit answers, (exits, rows, classes), and how sure it is, (exits, rows)."""
    with ee.Runner(bundle, threads=1) as runner:
        found = [runner.run_all_exits(row[None]) for row in rows]
    scores = np.array([[answer.outputs["logits"][0] for answer in answers] for answers in found])
    sure = np.array([[answer.confidence for answer in answers] for answers in found])
    return scores.swapaxes(0, 1), sure.T
