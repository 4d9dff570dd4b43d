"""Two writers of one bundle: one of them is whole at the end, and what each has read and changed is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from plans import chain, edit

import eetoolkit as ee
from eetoolkit_runtime.bundle import rewriting
from eetoolkit_runtime.bundle.store import commit, staging
from eetoolkit_runtime.plan.types import Tuning

PAIRS = """
    import json, os, random, shutil, sys, time
    from pathlib import Path
    from eetoolkit_runtime.bundle.bundle import load
    from eetoolkit_runtime.errors import EEToolkitError
    from eetoolkit_runtime.bundle.store import commit, staging
    from eetoolkit_runtime.truncate import truncate

    old, new, target, how = *map(Path, sys.argv[1:4]), sys.argv[4]

    def copy(source):
        manifest = load(source).manifest
        with staging(target) as folder:
            for name in manifest.files:
                shutil.copyfile(source / name, folder / name)
            commit(folder, manifest, target)

    def cut(source):
        truncate(source, "exit1", target, overwrite=True)

    work = {"copy": copy, "truncate": cut}[how]
    rng, seen = random.Random(3), []
    for number in range(40):
        shutil.rmtree(target, ignore_errors=True)
        if number % 2:
            copy(old)
        children = []
        for source in (old, new):
            wait = rng.random() * 0.004
            child = os.fork()
            if child == 0:
                time.sleep(wait)
                work(source)
                os._exit(0)
            children.append(child)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        try:
            seen.append([load(target, check="full").manifest.name, *statuses])
        except EEToolkitError as error:
            seen.append([f"broken: {error}", *statuses])
    left = sorted(path.name for path in target.parent.iterdir())
    inside = {path.name for path in target.iterdir()} - {"manifest.json", *load(target).manifest.files}
    print(json.dumps([seen, left, sorted(inside)]))
"""


@pytest.mark.parametrize("how", ["copy", "truncate"])
def test_of_two_processes_that_write_one_bundle_one_is_whole(tmp_path: Path, how: str) -> None:
    sources = []
    for name, thresholds in (("old", (0.5, 0.5)), ("new", (0.25, 0.25, 0.25))):
        draft = chain(*thresholds, weights=True)
        draft.options["name"] = name
        sources.append(draft.save(tmp_path / name))
    (tmp_path / "at").mkdir()
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(PAIRS)]
    done = subprocess.run(
        [*command, *map(str, sources), str(tmp_path / "at" / "t.ee"), how], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    seen, left, inside = json.loads(done.stdout)
    counts = Counter((name in {"old", "new"}, *statuses) for name, *statuses in seen)
    assert counts == {(True, 0, 0): 40}, seen
    assert (left, inside) == (["t.ee"], [])


def test_what_reads_and_writes_waits_for_another_that_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = chain(0.5, 0.5).save(tmp_path / "b.ee")
    found = ee.profile(folder, np.full((2, 4), 0.25, np.float32), threads=1, seconds=0)
    before = {"exit0": 0.75}
    edit(folder, tuning=Tuning(goal="g", metric="m", costs="c", seed=0, rows={}, thresholds={}, exits_before=before))
    reading, go_on = threading.Event(), threading.Event()

    def held(*arguments: object, original: object = rewriting.commit, **options: object) -> None:
        if not reading.is_set():
            reading.set()
            assert go_on.wait(30)
        original(*arguments, **options)  # type: ignore[operator]

    monkeypatch.setattr(rewriting, "commit", held)
    saves = threading.Thread(target=lambda: found.save(ee.load(folder)))
    saves.start()
    assert reading.wait(30)  # it has read the manifest, and has not written it
    undoes = threading.Thread(target=lambda: ee.undo_tuning(folder))
    undoes.start()
    undoes.join(0.2)
    assert undoes.is_alive()
    go_on.set()
    for thread in (saves, undoes):
        thread.join(30)
    plan = ee.load(folder, check="full").manifest
    assert plan.exits["exit0"].threshold == 0.75
    assert plan.tuning is None
    assert plan.profile is not None
    assert plan.profile.expected_ms == {
        name: cost.latency.p90_ms for name, cost in found.segments.items() if cost.latency
    }
    assert ee.Profile.read(folder) == found


def test_a_bundle_that_has_come_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    other = chain().save(tmp_path / "other")
    manifest = ee.load(other).manifest
    with (
        pytest.raises(ee.BundleError, match=r"t\.ee exists; pass overwrite=True"),
        staging(tmp_path / "t.ee") as folder,
    ):
        for name in manifest.files:
            (folder / name).write_bytes((other / name).read_bytes())
        chain(0.25).save(tmp_path / "t.ee")
        commit(folder, manifest, tmp_path / "t.ee", overwrite=False)
    assert ee.load(tmp_path / "t.ee", check="full").exits["exit0"].threshold == 0.25


def test_a_manifest_that_nobody_could_open_is_not_written(tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "b.ee")
    plan = ee.load(folder).manifest
    long = msgspec.structs.replace(plan, notes=("x" * (9 << 20),))
    with pytest.raises(ee.ManifestError, match="a manifest has at most 8388608"), staging(folder) as staged:
        commit(staged, long, folder)
    assert ee.load(folder).manifest == plan
