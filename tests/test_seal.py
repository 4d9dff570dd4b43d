"""A manifest that was changed after it was written is found at every opening, and says how to accept an edit."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from plans import chain, row

from eetoolkit.cli import main
from eetoolkit_runtime.bundle.archive import unpack
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.bundle.store import accept_edit
from eetoolkit_runtime.errors import IntegrityError, ManifestError
from eetoolkit_runtime.plan.seal import check_seal, seal
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle."""
    return chain(weights=True).save(tmp_path / "b.ee")


def canonical(text: str) -> str:
    """Returns the canonical form by the words of docs/bundle-format.md, token by token."""
    tokens = re.findall(r'"(?:[^"\\]|\\.)*"|[^\s"]', text)
    found = "".join(tokens)
    return found[: found.rindex(',"digest":')] + "}"


def test_the_digest_is_that_of_the_canonical_form_as_specified(folder: Path) -> None:
    text = (folder / "manifest.json").read_text()
    assert json.loads(text)["digest"] == hashlib.sha256(canonical(text).encode()).hexdigest()
    assert list(json.loads(text))[-1] == "digest"


@pytest.mark.parametrize("text", ['{"a": "x, \\" y : {"}', '{"ä": [1, 2.50, -1e5]}', '{"a": {}, "digest": "inner"}'])
def test_white_space_and_names_inside_of_texts_count(text: str) -> None:
    sealed = seal(text.encode()).decode()
    assert json.loads(sealed) | {"digest": 0} == json.loads(text) | {"digest": 0}
    assert json.loads(sealed)["digest"] == hashlib.sha256(canonical(sealed).encode()).hexdigest()
    check_seal(sealed.encode(), "m", "fix")
    with pytest.raises(IntegrityError):
        check_seal(sealed.replace("a", "b", 1).replace("ä", "ö", 1).encode(), "m", "fix")


def test_layout_does_not_count(folder: Path) -> None:
    path = folder / "manifest.json"
    whole = load(folder)
    for layout in (
        lambda text: msgspec.json.format(text, indent=-1),
        lambda text: msgspec.json.format(text, indent=4),
        lambda text: text.replace(b"\n", b"\r\n"),
    ):
        path.write_bytes(layout(path.read_bytes()))
        assert load(folder) == whole


def test_every_bit_of_the_manifest_counts(folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_bytes()
    compact = msgspec.json.format(text, indent=-1)
    for at in range(0, len(compact), 3):
        changed = bytearray(compact)
        changed[at] ^= 1 << at % 7
        path.write_bytes(changed)
        with pytest.raises((IntegrityError, ManifestError)):
            load(folder)


OPENINGS: dict[str, Callable[[Path], object]] = {
    "load": load,
    "load, full": lambda folder: load(folder, check="full"),
    "Runner": Runner,
    "verify": verify,
    "a .zip": lambda folder: unpack(zipped(folder), folder.parent / "cache"),
}


def zipped(folder: Path) -> Path:
    """Returns a .zip of a bundle's folder that nobody has checked."""
    import shutil

    return Path(shutil.make_archive(str(folder.parent / "packed"), "zip", folder))


@pytest.mark.parametrize("opening", OPENINGS)
def test_a_threshold_of_another_digit_is_found_by(opening: str, folder: Path) -> None:
    path = folder / "manifest.json"
    text = path.read_text()
    changed = re.sub(r'("threshold": 0\.)5', r"\g<1>4", text, count=1)
    assert changed != text
    path.write_text(changed)
    with pytest.raises(IntegrityError, match=r"manifest\.json was changed: its digest is [0-9a-f]{12}…, its content's"):
        OPENINGS[opening](folder)


def test_an_edit_is_accepted_by_the_command_that_the_message_names(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"threshold": 0.5', '"threshold": 0.25', 1))
    with pytest.raises(IntegrityError) as caught:
        load(folder)
    assert f"`eetoolkit verify {folder} --accept-edit`" in str(caught.value)
    accept_edit(folder)
    assert load(folder, check="full").exits["exit0"].threshold == 0.25
    assert Runner(folder, threads=1).run(row(0.3)).exit == "exit0"


def test_the_command_accepts_an_edit_and_verifies(tmp_path: Path) -> None:
    draft = chain()
    folder = draft.save(tmp_path / "b.ee")
    from plans import recorded

    with Runner(folder, threads=1) as runner:
        draft.samples = [recorded(runner, row(0.9))]
    folder = draft.save(tmp_path / "b.ee")
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"threshold": 0.5', '"threshold": 0.25', 1))
    refused = CliRunner().invoke(main, ["verify", str(folder)])
    assert refused.exit_code == 1
    assert "--accept-edit" in refused.stderr
    accepted = CliRunner().invoke(main, ["verify", str(folder), "--accept-edit"])
    assert accepted.exit_code == 0, accepted.output
    assert load(folder).exits["exit0"].threshold == 0.25


def test_an_edit_that_makes_no_plan_is_not_accepted(folder: Path) -> None:
    path = folder / "manifest.json"
    edited = path.read_text().replace('"start": "segment0"', '"start": "nowhere"', 1)
    path.write_text(edited)
    with pytest.raises(ManifestError, match="start is 'nowhere'"):
        accept_edit(folder)
    assert path.read_text() == edited


def test_an_edit_beside_changed_weights_is_not_accepted(folder: Path) -> None:
    weights = next(folder.glob("*.bin"))
    weights.write_bytes(bytes(weights.stat().st_size))
    with pytest.raises(IntegrityError, match="the file was changed"):
        accept_edit(folder)


def test_a_manifest_without_a_digest_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    keys = json.loads(path.read_text())
    del keys["digest"]
    path.write_text(json.dumps(keys))
    with pytest.raises(IntegrityError, match=r"manifest\.json does not end with its digest: "):
        load(folder)
    path.write_text(json.dumps({"digest": "0" * 64} | keys))
    with pytest.raises(IntegrityError, match=r"manifest\.json does not end with its digest: "):
        load(folder)


def test_a_newer_version_is_told_to_update_whatever_its_digest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"version": 2', '"version": 3', 1))
    with pytest.raises(ManifestError, match="update eetoolkit"):
        load(folder)
