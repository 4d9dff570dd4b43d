"""Readers of files that anybody may have made, fed with damaged ones: a typed error, or something that holds.

`python tests/fuzzing.py INPUTS [SEED [TARGET]]` runs so many inputs (`make fuzz`); `test_fuzzing.py` runs a minute
of them. A seed gives the same inputs each time. An input that ends in any other exception is kept as `fuzz-TARGET`.
"""

from __future__ import annotations

import contextlib
import copy
import faulthandler
import io
import json
import math
import random
import shutil
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from plans import NETWORKS, chain, recorded, row

from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.inputfiles import InputFile, read_files
from eetoolkit.showing.profile_picture import bars
from eetoolkit.tuning.record import Record, read_record
from eetoolkit_runtime.bundle.archive import unpack
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import read_golden
from eetoolkit_runtime.bundle.integrity import digest
from eetoolkit_runtime.errors import DeadlineError, EEToolkitError, RunError
from eetoolkit_runtime.files.wire import external_files
from eetoolkit_runtime.plan.flow import live_before
from eetoolkit_runtime.plan.manifest import decode, decode_sealed, encode
from eetoolkit_runtime.plan.seal import DIGEST, seal
from eetoolkit_runtime.plan.types import MANIFEST, Preprocess, TensorSpec
from eetoolkit_runtime.plan.validate import validate
from eetoolkit_runtime.profiling import profile as profiles
from eetoolkit_runtime.profiling.profiler import profile
from eetoolkit_runtime.running.inputs import row_axes
from eetoolkit_runtime.running.runner import Runner

_MOST_FED, _LONGEST_RUN_MS = 1 << 20, 500
LONGEST_S = 20
"""No input may take longer; the process then ends with a traceback."""
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**53 + 1, 2**63, 10**30, 0.5, -0.0, 1e308, "", "x", "\x00", "\x1b[2J", "../x",
    "x" * 300, "ä" * 200, "batch", [], {}, [[]], [1, 2], ["a"], {"a": 1}, [0] * 40, "float32", "manifest.json",
)  # fmt: skip
_BYTES = (
    b"\x00", b"\xff", b"\x7f\xff\xff\xff", b"\xff" * 8, b"PK\x03\x04", b"\x93NUMPY", b"{", b"[" * 50, b'"', b"9" * 30
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A reader: whole files for it, how one is damaged, and what reads it."""

    seeds: tuple[bytes, ...]
    damage: Callable[[random.Random, bytes], bytes]
    read: Callable[[bytes], object]


# Damage


def in_bytes(rng: random.Random, data: bytes) -> bytes:
    """Returns the bytes with one to four places changed."""
    found = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, size = rng.randrange(len(found) + 1), rng.randrange(1, 17)
        match rng.randrange(6):
            case 0 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = rng.choice(_BYTES)
            case 3:
                found[at : at + size] = rng.randbytes(size)
            case 4:
                found[at:at] = found[at : at + size]
            case _:
                del found[at:]
    return bytes(found)


def in_json(rng: random.Random, data: bytes) -> bytes:
    """Returns a JSON document with one to three values, keys or elements changed, moved or gone."""
    try:
        document = json.loads(data)
    except ValueError:
        return in_bytes(rng, data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(document))
        if not places:
            break
        inside, key = rng.choice(places)
        match rng.randrange(6):
            case 0:
                del inside[key]
            case 1:
                other, there = rng.choice(places)
                if isinstance(other, dict) or there < len(other):
                    moved = other.get(there) if isinstance(other, dict) else other[there]
                    inside[key] = copy.deepcopy(moved)  # which may hold the place where it goes
            case 2 if isinstance(inside, dict):
                inside[rng.choice(("x", "", "format", "kind", f"{key}x"))] = inside.pop(key)
            case 3 if isinstance(inside[key], int | float) and not isinstance(inside[key], bool):
                inside[key] = rng.choice((-inside[key], inside[key] + 1, inside[key] * 2**20, float(inside[key])))
            case _:
                inside[key] = copy.deepcopy(rng.choice(_VALUES))
    return json.dumps(document, ensure_ascii=rng.random() < 0.5).encode()


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Yields every (container, key) of a document."""
    waiting = [document]
    while waiting:
        inside = waiting.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside)) if isinstance(inside, list) else ()
        for key in keys:
            yield inside, key
            waiting.append(inside[key])


def in_manifest(rng: random.Random, data: bytes) -> bytes:
    """Returns a damaged manifest; mostly with a right digest, so that what lies behind it is met."""
    if rng.random() < 0.1:
        return in_bytes(rng, data)
    keys = json.loads(data)
    del keys[DIGEST]
    changed = (in_json if rng.random() < 0.8 else in_bytes)(rng, json.dumps(keys).encode())
    try:
        return seal(changed)
    except (EEToolkitError, msgspec.MsgspecError):
        return changed


def in_plan(rng: random.Random, data: bytes) -> bytes:
    """Returns a manifest in which one or two values have become others of their kind that stand in it, or numbers."""
    document = json.loads(data)
    del document[DIGEST]
    for _ in range(rng.choice((1, 1, 2))):
        places = [(inside, key) for inside, key in _places(document) if not isinstance(inside[key], dict | list)]
        inside, key = rng.choice(places)
        alike = [there[at] for there, at in places if type(there[at]) is type(inside[key])]
        number = isinstance(inside[key], int | float) and not isinstance(inside[key], bool)
        inside[key] = rng.choice([*alike, *((0, 1, 2, 3, 2**20, 0.25) if number else ())])
    return seal(json.dumps(document).encode())


def in_tensors(rng: random.Random, data: bytes) -> bytes:
    """Returns a damaged file of tensors; its header mostly has its right length, and its metadata are changed too."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.5:
        keys = json.loads(header)
        keys["__metadata__"]["samples"] = in_json(rng, keys["__metadata__"]["samples"].encode()).decode()
        header = json.dumps(keys).encode()
    else:
        header = in_json(rng, header)
    return len(header).to_bytes(8, "little") + header + (rest if rng.random() < 0.9 else in_bytes(rng, rest))


def in_npz(rng: random.Random, data: bytes) -> bytes:
    """Returns a damaged `.npz`; mostly a whole zip whose arrays are damaged, renamed, doubled or gone."""
    if rng.random() < 0.3:
        return in_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    names = list(members)
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(names)
        match rng.randrange(5):
            case 0:
                members.pop(name, None)
            case 1:
                members[rng.choice((f"x{name}", name.upper(), "", "../x.npy", name * 40))] = members.get(name, b"")
            case 2:
                members[name] = _npy(rng.choice(_ARRAYS))
            case 3 if members.get(name, b"").startswith(b"\x93NUMPY"):
                members[name] = members[name][:10] + in_bytes(rng, members[name][10:120]) + members[name][120:]
            case _:
                members[name] = in_bytes(rng, members.get(name, b""))
    file = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, member in members.items():
            archive.writestr(name or "_", member)
    return file.getvalue()


_ARRAYS: tuple[Any, ...] = (
    np.zeros(0), np.float32(np.nan), np.full((1, 4), np.inf, np.float32), np.array("text"), np.array(b"bytes"),
    np.array([1j]), np.zeros((2, 3, 4), np.int8), np.array([2**63], np.uint64), np.array(True), np.zeros((0, 4), ">f4"),
    np.full((3, 2), -7, np.int64), np.array('{"version": 1}'), np.arange(8).reshape(2, 4).T,
)  # fmt: skip


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def _npz(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def either(*damages: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    """Returns a damage that is one of these."""
    return lambda rng, data: rng.choice(damages)(rng, data)


# Readers


def targets(folder: Path) -> dict[str, Target]:
    """Returns the readers by name; `folder` holds what they need."""
    draft = chain(0.5, 0.5, weights=True)
    plain = draft.save(folder / "plain")
    with Runner(plain, threads=1) as runner:
        draft.samples = [recorded(runner, row(0.9)), recorded(runner, row(0.1, 0.7))]
    bundle = load(draft.save(folder / "chain"))
    pictured = msgspec.structs.replace(
        bundle.manifest,
        inputs=(TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8)),),
        preprocess={"image": Preprocess(layout="NCHW", resize=(8, 8))},
    )
    packed = bundle.pack(folder / "chain.zip", overwrite=True).read_bytes()
    golden = bundle.manifest.golden
    assert golden is not None
    manifests = tuple(encode(build().plan()) for build in NETWORKS.values())
    graphs = tuple(path.read_bytes() for path in bundle.path.glob("*.onnx"))
    measured = profile(bundle, row(0.9), np.zeros(1, int), threads=1, seconds=0)
    labelled = _npz(x=row(0.1), labels=np.zeros(1, int))
    arrays = (_npy(row(0.3)), _npy(np.repeat(row(0.3), 3, 0)), _npz(x=row(0.1)), labelled)
    (folder / "records").mkdir()
    collected(bundle).save(folder / "records" / "record.npz")
    return {
        "manifest": Target((*manifests, (bundle.path / MANIFEST).read_bytes()), in_manifest, read_manifest),
        "zip": Target((packed,), either(in_bytes, in_npz), lambda data: read_zip(folder, data)),
        "input": Target(arrays, either(in_bytes, in_npz_or_bytes), lambda data: read_input(bundle, data)),
        "picture": Target(pictures(), in_bytes, lambda data: read_input(bundle, data, pictured)),
        "golden": Target(
            ((bundle.path / golden.file).read_bytes(),),
            either(in_tensors, in_bytes),
            lambda data: read_golden_file(folder, bundle, data),
        ),
        "profile": Target((profiles.encode(measured),), either(in_json, in_bytes), read_profile),
        "record": Target(
            ((folder / "records" / "record.npz").read_bytes(),), in_record, lambda data: read_record_file(folder, data)
        ),
        "graph": Target(graphs, in_bytes, read_graph),
        "run": Target(runnable(folder / "run"), in_plan, lambda data: run_bundle(folder / "run", data)),
    }


def runnable(folder: Path) -> tuple[bytes, ...]:
    """Returns the manifests of bundles whose files all lie in one folder."""
    found = []
    for name, build in NETWORKS.items():
        place = build().save(folder / name)
        found.append((place / MANIFEST).read_bytes())
        for path in place.glob("*.onnx*"):
            shutil.copy(path, folder)
    return tuple(found)


def in_npz_or_bytes(rng: random.Random, data: bytes) -> bytes:
    """Returns a damaged `.npz`, or whatever else damaged byte by byte."""
    return in_npz(rng, data) if data.startswith(b"PK") else in_bytes(rng, data)


def in_record(rng: random.Random, data: bytes) -> bytes:
    """Returns a damaged record, at times only its head, which is JSON in an array."""
    if rng.random() < 0.7:
        return in_npz(rng, data)
    with np.load(io.BytesIO(data)) as arrays:
        held = {name: arrays[name] for name in arrays.files}
    held["head"] = np.array(in_json(rng, str(held["head"]).encode()).decode(errors="replace"))
    return _npz(**held)


def pictures() -> tuple[bytes, ...]:
    """Returns small pictures of several kinds."""
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)
    found = []
    for mode, kind in (("RGB", "PNG"), ("RGB", "JPEG"), ("P", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG")):
        file = io.BytesIO()
        Image.fromarray(pixels).convert("L" if mode == "LA" else mode).convert(mode).save(file, kind)
        found.append(file.getvalue())
    return tuple(found)


def collected(bundle: Bundle) -> Record:
    """Returns what tuning collects of a few rows."""
    from eetoolkit.tuning.collect import collect

    x = np.concatenate([row(value) for value in (0.1, 0.4, 0.6, 0.9)])
    return collect(bundle, x, np.array([0, 1, 2, 3]), threads=1)


def read_manifest(data: bytes) -> None:
    """Decodes and proves a manifest, and writes it again."""
    plan = decode_sealed(data, "m", "f")
    validate(plan)
    live = live_before(plan)
    for name in plan.segments:
        _ = live[name]
    if repr(decode(encode(plan))) != repr(plan):
        raise AssertionError("a manifest that was written again is another")


def run_bundle(folder: Path, data: bytes) -> None:
    """Opens a bundle and runs what it takes in every way there is."""
    (folder / MANIFEST).write_bytes(data)
    with Runner(folder, threads=1) as runner:
        plan = runner.bundle.manifest
        sizes = [[1 if not isinstance(dim, int) else dim for dim in spec.shape] for spec in plan.inputs]
        if sum(map(math.prod, sizes)) > _MOST_FED:
            return
        one = {spec.name: np.full(size, 0.3, spec.dtype) for spec, size in zip(plan.inputs, sizes, strict=True)}
        two = {
            spec.name: one[spec.name] if axis is None else np.repeat(one[spec.name], 2, axis)
            for spec, axis in zip(plan.inputs, row_axes(plan), strict=True)
        }
        calls: tuple[Callable[[], object], ...] = (
            lambda: runner.run(one, deadline_ms=_LONGEST_RUN_MS), lambda: runner.run(one),
            lambda: list(runner.refine(one)), lambda: runner.run_batch(two),
        )  # fmt: skip
        with contextlib.suppress(DeadlineError):
            for call in calls:
                try:
                    call()
                except DeadlineError:  # a loop that may go on for a million visits
                    raise
                except RunError:
                    continue


def read_zip(folder: Path, data: bytes) -> None:
    """Unpacks a bundle, which is whole then."""
    path = folder / "fuzzed.zip"
    path.write_bytes(data)
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        load(unpack(path, Path(cache)), check="full")


class _Stdin(io.BytesIO):
    """Bytes that come from a pipe."""


def read_input(bundle: Bundle, data: bytes, plan: Any = None) -> None:
    """Reads rows from a file, as `run` takes them."""
    rows: list[InputFile] = list(read_files(plan or bundle.manifest, ["-"], ImageOptions(), _Stdin(data)))
    for file in rows:
        if len(file.names) != len(file.rows):
            raise AssertionError("rows without names")


def read_golden_file(folder: Path, bundle: Bundle, data: bytes) -> None:
    """Reads golden samples of which the manifest says that they are these."""
    path = bundle.path / "golden-fuzzed.safetensors"
    path.write_bytes(data)
    plan, golden = bundle.manifest, bundle.manifest.golden
    assert golden is not None
    files = plan.files | {path.name: digest(path)}
    changed = msgspec.structs.replace(plan, files=files, golden=msgspec.structs.replace(golden, file=path.name))
    for sample in read_golden(Bundle(bundle.path, changed)):
        for visit in sample.visits:
            if set(visit.outputs) != set(plan.exits[visit.exit].outputs):
                raise AssertionError("a visit without all outputs")


def read_profile(data: bytes) -> None:
    """Decodes a profile, shows it, puts it beside itself, and encodes it again."""
    found = profiles.decode(data, "p")
    str(found)
    bars(found)
    found.compare(found)
    profiles.decode(profiles.encode(found), "p")


def read_record_file(folder: Path, data: bytes) -> None:
    """Reads a record and takes it apart."""
    path = folder / "records" / "fuzzed.npz"
    path.write_bytes(data)
    found = read_record(path)
    if len(found):
        found.answered(found.last)
        found.take(np.arange(len(found)))


def read_graph(data: bytes) -> None:
    """Looks which files a graph maps."""
    try:
        external_files(data)
    except (ValueError, RecursionError):  # what `integrity.read_graph` takes for damage
        return


# Running


def fuzz(inputs: int, seed: int, only: str | None = None) -> Counter[tuple[str, str]]:
    """Runs inputs, the targets in turns; returns how often each target took or refused one.

    Raises:
        Exception: The first that is none of ours; the input is kept in a file.
    """
    counts: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as place:
        readers = targets(Path(place))
        names = [only] if only else list(readers)
        for number in range(inputs):
            name = names[number % len(names)]
            target = readers[name]
            rng = random.Random(f"{seed} {name} {number}")  # noqa: S311 - the same inputs each time
            data = target.damage(rng, rng.choice(target.seeds))
            faulthandler.dump_traceback_later(LONGEST_S, exit=True)
            try:
                target.read(data)
                counts[name, "taken"] += 1
            except EEToolkitError as error:
                counts[name, "refused"] += 1
                if not str(error).strip() or len(str(error)) > 2000:
                    Path(f"fuzz-{name}").write_bytes(data)
                    raise AssertionError(f"{name} {number}: no message that helps: {str(error)[:200]!r}") from error
            except Exception:
                Path(f"fuzz-{name}").write_bytes(data)
                print(f"{name} {number}, seed {seed}: kept in fuzz-{name}", file=sys.stderr)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
    return counts


def peak_mib() -> int:
    """Returns the most memory that this process has had; `ru_maxrss` would count what it was forked from, too."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10


def main() -> None:
    """Runs what the command line asks for, and prints the counts."""
    inputs, seed = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    before, started = peak_mib(), time.perf_counter()
    counts = fuzz(inputs, seed, sys.argv[3] if len(sys.argv) > 3 else None)
    taken = time.perf_counter() - started
    for name in dict.fromkeys(name for name, _ in counts):
        print(f"{name:10} {counts[name, 'refused']:8} refused {counts[name, 'taken']:8} taken")
    print(f"{inputs} inputs, seed {seed}: {taken:.0f} s, memory {before} to {peak_mib()} MiB, no bare exception")


if __name__ == "__main__":
    main()
