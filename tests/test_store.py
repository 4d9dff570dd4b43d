"""A bundle is written so that a kill at any moment leaves the old one or the new one, whole."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import parser
from plans import chain

from eetoolkit_runtime.bundle import store
from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.bundle.store import check_target, commit, named_by_content, staging
from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.plan.types import File, Manifest


def sources(tmp_path: Path) -> tuple[Path, Path]:
    """Returns the folders of an old and a new bundle, some of whose files are the same."""
    old = chain(weights=True)
    old.options["name"] = "old"
    new = chain(0.25, 0.25, 0.25, weights=True)
    new.options["name"] = "new"
    return old.save(tmp_path / "old"), new.save(tmp_path / "new")


def write(source: Path, target: Path) -> None:
    """Writes the bundle at `source` to `target` as an export does."""
    manifest = load(source).manifest
    with staging(target) as folder:
        for name in manifest.files:
            (folder / name).write_bytes((source / name).read_bytes())
        commit(folder, manifest, target)


def manifest_of(folder: Path) -> Manifest:
    return load(folder, check="full").manifest


def test_a_digest_is_the_sha256_and_the_size(tmp_path: Path) -> None:
    text = os.urandom((1 << 20) + 17)
    (tmp_path / "a").write_bytes(text)
    assert digest(tmp_path / "a") == File(sha256=hashlib.sha256(text).hexdigest(), size=len(text))


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "raw.onnx").write_bytes(b"graph")
    sha = hashlib.sha256(b"graph").hexdigest()
    assert named_by_content(tmp_path / "raw.onnx", "segment0") == (
        f"segment0-{sha[:8]}.onnx",
        File(sha256=sha, size=5),
    )
    assert [path.name for path in tmp_path.iterdir()] == [f"segment0-{sha[:8]}.onnx"]


def test_a_bundle_is_written_where_none_was(tmp_path: Path) -> None:
    _, new = sources(tmp_path)
    write(new, tmp_path / "deep" / "target.ee")
    assert manifest_of(tmp_path / "deep" / "target.ee") == manifest_of(new)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["target.ee"]


def test_a_bundle_replaces_another_and_leaves_nothing_of_it(tmp_path: Path) -> None:
    old, new = sources(tmp_path)
    write(old, tmp_path / "target.ee")
    write(new, tmp_path / "target.ee")
    found = manifest_of(tmp_path / "target.ee")
    assert found.name == "new"
    assert {path.name for path in (tmp_path / "target.ee").iterdir()} == {"manifest.json", *found.files}
    assert not list(tmp_path.glob("*.partial-*"))


def test_a_bundle_may_be_written_into_an_empty_folder(tmp_path: Path) -> None:
    _, new = sources(tmp_path)
    (tmp_path / "target.ee").mkdir()
    check_target(tmp_path / "target.ee", overwrite=False)
    write(new, tmp_path / "target.ee")
    assert manifest_of(tmp_path / "target.ee").name == "new"


def test_folders_inside_a_bundle_are_left_alone(tmp_path: Path) -> None:
    old, new = sources(tmp_path)
    write(old, tmp_path / "target.ee")
    (tmp_path / "target.ee" / "mine").mkdir()
    write(new, tmp_path / "target.ee")
    assert (tmp_path / "target.ee" / "mine").is_dir()


def test_files_that_are_not_the_bundles_stay(tmp_path: Path) -> None:
    old, new = sources(tmp_path)
    target = tmp_path / "target.ee"
    write(old, target)
    mine = {"README.md": b"mine", "record.json": b"{}", "photo-deadbeef.png": b"not its digest", "segment0.onnx": b""}
    for name, text in mine.items():
        (target / name).write_bytes(text)
    (target / "raw.bin").write_bytes(b"left by a writer that was killed")
    left, _ = named_by_content(target / "raw.bin", "segment0")
    write(new, target)
    stay = {"manifest.json", *manifest_of(target).files, *mine, left}
    assert {path.name for path in target.iterdir()} == stay
    with staging(target) as folder:
        commit(folder, msgspec.structs.replace(load(target).manifest, name="tuned"), target)
    assert {name: (target / name).read_bytes() for name in mine} == mine
    assert {path.name for path in target.iterdir()} == stay


def test_a_broken_manifest_can_be_replaced(tmp_path: Path) -> None:
    old, new = sources(tmp_path)
    write(old, tmp_path / "target.ee")
    (tmp_path / "target.ee" / "manifest.json").write_text("{")
    write(new, tmp_path / "target.ee")
    assert {path.name for path in (tmp_path / "target.ee").iterdir()} == {
        "manifest.json", *manifest_of(tmp_path / "target.ee").files
    }  # fmt: skip


def test_every_file_and_the_names_are_on_disk_before_the_manifest_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = sources(tmp_path)
    write(old, tmp_path / "target.ee")
    synced: list[str] = []
    sync, replace = store.sync, Path.replace

    def recorded(path: Path) -> None:
        synced.append(path.name)
        sync(path)

    def replaced(self: Path, target: Path) -> Path:
        synced.append(f"{self.name} -> {Path(target).parent.name}")
        return replace(self, target)

    monkeypatch.setattr(store, "sync", recorded)
    monkeypatch.setattr(Path, "replace", replaced)
    write(new, tmp_path / "target.ee")
    commit_at = synced.index("manifest.json -> target.ee")
    for name in load(new).manifest.files:
        assert synced.index(name) < synced.index(f"{name} -> target.ee") < commit_at
    assert synced.index("manifest.json") < commit_at
    assert synced[commit_at - 1] == synced[commit_at + 1] == "target.ee"


def test_the_staging_folder_is_gone_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), staging(tmp_path / "target.ee") as folder:
        (folder / "a").write_bytes(b"")
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_a_bundle_has_the_permissions_that_any_new_folder_has(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        with staging(tmp_path / "target.ee") as folder:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    finally:
        os.umask(mask)


def test_what_a_killed_writer_left_a_day_ago_is_removed(tmp_path: Path) -> None:
    stale, fresh = tmp_path / "target.ee.partial-abc", tmp_path / "target.ee.partial-def"
    other = tmp_path / "other.ee.partial-abc"
    for folder in (stale, fresh, other):
        folder.mkdir()
    for folder in (stale, other):
        os.utime(folder, (0, 0))
    with staging(tmp_path / "target.ee"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {fresh.name, other.name}


def test_a_name_with_a_pattern_in_it_removes_nothing_else(tmp_path: Path) -> None:
    other = tmp_path / "a.ee.partial-abc"
    other.mkdir()
    os.utime(other, (0, 0))
    with staging(tmp_path / "[ab].ee"):
        pass
    assert other.is_dir()


def test_another_writer_that_finishes_meanwhile_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "target.ee.partial-gone").symlink_to(tmp_path / "gone")  # listed, and not there when looked at
    with staging(tmp_path / "target.ee") as folder:
        assert folder.is_dir()


def test_a_place_where_nothing_can_be_written_is_a_bundle_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(BundleError, match=r"^cannot write .*target\.ee: File exists$"),
        staging(tmp_path / "file" / "target.ee"),
    ):
        pass


# What may be replaced


def test_nothing_is_in_the_way_of_a_new_bundle(tmp_path: Path) -> None:
    check_target(tmp_path / "target.ee", overwrite=False)


def test_a_bundle_is_not_replaced_unasked(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "target.ee")
    with pytest.raises(BundleError) as caught:
        check_target(folder, overwrite=False)
    assert str(caught.value) == f"{folder} exists; pass overwrite=True (--overwrite) to replace it"
    check_target(folder, overwrite=True)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_that_is_no_bundle_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(BundleError) as caught:
        check_target(tmp_path / "photos", overwrite=overwrite)
    assert str(caught.value) == (
        f"{tmp_path / 'photos'} exists and is not a bundle; it is left as it is: choose another name"
    )


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_file_is_never_replaced(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match="is not a bundle; it is left as it is"):
        check_target(tmp_path / "file", overwrite=overwrite)


# Kills. One clean process forks a child for every moment: the child counts the effects that it is about to have on the
# disk (any file opened for writing, made, renamed, removed; any fsync; a write cut off in the middle) and kills itself
# before the n-th. An audit hook sees these effects whatever function has them.

HARNESS = """
    import json, os, shutil, signal, sys
    from pathlib import Path

    sys.path.insert(0, sys.argv[1])
    from eetoolkit_runtime.bundle.archive import pack, unpack
    from eetoolkit_runtime.bundle.bundle import load
    from eetoolkit_runtime.errors import EEToolkitError
    from eetoolkit_runtime.bundle.store import commit, staging

    old, new, target = map(Path, sys.argv[2:5])
    EFFECTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "os.chmod", "os.link", "os.symlink"}
    left = -1  # effects before the kill; negative: never

    def effect():
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def audit(event, arguments):
        if left >= 0 and (event in EFFECTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
            effect()

    def fsync(handle, original=os.fsync):
        effect() if left >= 0 else None
        original(handle)

    def write_bytes(self, text):
        with self.open("wb") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            effect() if left >= 0 else None
            file.write(text[len(text) // 2 :])

    sys.addaudithook(audit)
    os.fsync, Path.write_bytes = fsync, write_bytes

    def write(source):
        manifest = load(source).manifest
        with staging(target) as folder:
            for name in manifest.files:
                (folder / name).write_bytes((source / name).read_bytes())
            commit(folder, manifest, target)

    def killed(work, after):
        # whether a child that does the work is killed when it has had so many effects
        global left
        child = os.fork()
        if child == 0:
            left = after
            work()
            left = -1
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
            raise SystemExit(f"the child failed after {after}: {status}")
        return os.WIFSIGNALED(status)

    def state():
        try:
            return load(target, check="full").manifest.name
        except EEToolkitError as error:
            return "nothing" if not target.exists() else f"broken: {error}"

    def reset(before):
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        if before is not None:
            before()

    def moments(work, before=None, after=None, step=1):
        seen = []
        while True:
            reset(before)
            alive = not killed(work, len(seen) * step)
            seen.append(state())
            if after is not None:
                after()
            if alive:
                print(json.dumps(seen))
                return seen
"""


def moments(tmp_path: Path, scenario: str, target: str = "target.ee") -> list[str]:
    """Returns what is at the target after a kill before each effect of the scenario, and after all of them."""
    seen: list[str] = harness(tmp_path, scenario, *sources(tmp_path), target)
    return seen


def harness(tmp_path: Path, scenario: str, old: Path, new: Path, target: str) -> Any:
    """Returns what the scenario prints last, of JSON, in a process of its own."""
    script = textwrap.dedent(HARNESS) + textwrap.dedent(scenario)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        script,
        str(Path(__file__).parent),
        old,
        new,
        tmp_path / "at" / target,
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def in_order(seen: list[str], *states: str) -> bool:
    """Tells whether the states follow each other, each at least once, and nothing else is seen."""
    return [state for k, state in enumerate(seen) if k == 0 or seen[k - 1] != state] == list(states)


def test_a_kill_at_any_moment_leaves_the_old_bundle_or_the_new_one_whole(tmp_path: Path) -> None:
    seen = moments(tmp_path, "moments(lambda: write(new), before=lambda: write(old))")
    assert in_order(seen, "old", "new"), seen
    assert len(seen) > 20
    assert seen.count("new") > 2  # what is removed last is removed after the commit


def test_a_kill_at_any_moment_leaves_nothing_or_the_whole_bundle_where_none_was(tmp_path: Path) -> None:
    seen = moments(tmp_path, "moments(lambda: write(new))")
    assert in_order(seen, "nothing", "new"), seen
    assert len(seen) > 15


def test_after_a_kill_at_any_moment_the_bundle_can_be_written_again_and_nothing_old_is_left(tmp_path: Path) -> None:
    scenario = """
        def again():
            write(new)
            found = load(target, check="full").manifest
            assert found.name == "new"
            assert {path.name for path in target.iterdir()} == {"manifest.json", *found.files}

        moments(lambda: write(new), before=lambda: write(old), after=again)
    """
    assert in_order(moments(tmp_path, scenario), "old", "new")


def test_a_kill_while_a_bundle_is_replaced_by_itself_leaves_it_whole(tmp_path: Path) -> None:
    assert in_order(moments(tmp_path, "moments(lambda: write(old), before=lambda: write(old))"), "old")


def test_a_kill_while_packing_leaves_the_old_archive_or_the_new_one_whole(tmp_path: Path) -> None:
    scenario = """
        os.environ["EETOOLKIT_CACHE"] = str(target.parent / "cache")
        bundles = [load(old), load(new)]
        work = lambda bundle: pack(bundle.path, bundle.manifest, target, overwrite=True)
        moments(lambda: work(bundles[1]), before=lambda: work(bundles[0]))
    """
    assert in_order(moments(tmp_path, scenario, "target.zip"), "old", "new")


def test_a_kill_while_unpacking_leaves_an_archive_that_still_opens(tmp_path: Path) -> None:
    scenario = """
        os.environ["EETOOLKIT_CACHE"] = str(target.parent / "cache")
        bundle = load(new)
        moments(lambda: load(target), before=lambda: pack(bundle.path, bundle.manifest, target))
    """
    seen = moments(tmp_path, scenario, "target.zip")
    assert in_order(seen, "new"), seen
    assert len(seen) > 10


EXPORTED = """<ir_version: 9, opset_import: ["" : 18]>
network (float[N, 4] x) => (float[N, 64] early, float[N, 64] late) {
    early = MatMul(x, weights)
    squares = Mul(early, early)
    late = Neg(squares)
}
"""


def network_file(path: Path, weight: float) -> Path:
    """Writes a network of two exits, with enough weights to have a file of their own, as .onnx."""
    model = parser.parse_model(EXPORTED)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((4, 64), weight, np.float32), "weights"))
    onnx.save(model, path)
    return path


def test_a_kill_during_an_export_leaves_the_old_bundle_or_the_new_one_or_nothing(tmp_path: Path) -> None:
    scenario = """
        import numpy as np
        import eetoolkit
        from eetoolkit_exporters.export import export  # so that no child has to import it

        x = np.zeros((2, 4), np.float32)
        before = old.with_suffix(".ee")

        def compile(network, to):
            eetoolkit.export(network, x, to, name=network.stem, overwrite=True)

        assert not killed(lambda: compile(old, before), -1)  # no threads of onnxruntime in the process that forks
        work = lambda: compile(new, target)
        over = moments(work, before=lambda: shutil.copytree(before, target), step=2)
        print(json.dumps([over, moments(work, step=5)]))
    """
    files = (network_file(tmp_path / f"{name}.onnx", k) for k, name in enumerate(("old", "new")))
    over, fresh = harness(tmp_path, scenario, *files, "target.ee")
    assert in_order(over, "old", "new"), over
    assert in_order(fresh, "nothing", "new"), fresh
    assert min(2 * len(over), 5 * len(fresh)) > 20
    assert over.count("new") > 1  # old files are removed after the commit


def test_the_harness_notices_a_manifest_that_is_written_in_place(tmp_path: Path) -> None:
    scenario = """
        from eetoolkit_runtime.plan.manifest import encode

        def careless():
            (target / "manifest.json").write_bytes(encode(load(new).manifest))
            for path in new.glob("segment*"):
                (target / path.name).write_bytes(path.read_bytes())

        moments(careless, before=lambda: write(old))
    """
    seen = moments(tmp_path, scenario)
    assert any(state.startswith("broken") for state in seen)
    assert (seen[0], seen[-1]) == ("old", "new")


def test_two_writers_at_once_leave_one_whole_bundle(tmp_path: Path) -> None:
    old, new = sources(tmp_path)
    target = tmp_path / "target.ee"
    with staging(target) as first, staging(target) as second:
        for folder, source in ((first, old), (second, new)):
            for name in load(source).manifest.files:
                (folder / name).write_bytes((source / name).read_bytes())
        commit(first, load(old).manifest, target)
        commit(second, load(new).manifest, target)
    assert manifest_of(target).name == "new"


def test_a_manifest_can_be_replaced_alone(tmp_path: Path) -> None:
    old, _ = sources(tmp_path)
    with staging(old) as folder:
        commit(folder, msgspec.structs.replace(load(old).manifest, name="tuned"), old)
    assert manifest_of(old).name == "tuned"


def test_a_strangers_journal_removes_nothing_but_what_writers_of_ours_leave(tmp_path: Path) -> None:
    target = chain().save(tmp_path / "b")
    (target / "folder").mkdir()
    (target / "notes.txt").write_text("mine")
    (target / "old-0123abcd.onnx").write_bytes(b"left by a killed writer")
    names = [
        "folder",
        "notes.txt",
        "old-0123abcd.onnx",
        "x" * 300,
        ".writing.json",
        "manifest.json",
        "gone-0123abcd.bin",
    ]
    (target / ".writing.json").write_text(json.dumps(names))
    other = chain(0.25).save(tmp_path / "other")
    write(other, target)
    assert (target / "folder").is_dir()
    assert (target / "notes.txt").read_text() == "mine"
    assert not (target / "old-0123abcd.onnx").exists()
    assert not (target / ".writing.json").exists()
    assert load(target, check="full").manifest.exits["exit0"].threshold == 0.25
