"""The native runner: it answers, proves and refuses as the Python runtime does."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import fuzzing
import msgspec
import native_build
import numpy as np
import onnxruntime
import pytest
import test_validate
from native_build import ask
from native_library import Native, NativeError
from networks.compiled import Compiled
from plans import NETWORKS, chain, edit, row
from test_plan import full

from eetoolkit_runtime.bundle.bundle import load
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.plan.manifest import encode
from eetoolkit_runtime.plan.seal import seal

EXPORTED = (
    "multi_scale", "layered_encoder", "recurrent", "exit_is_input", "mixed_inputs", "data_dependent",
    "while_loop_inside", "float64", "onnx_opset21_external",
)  # fmt: skip
CONFORMANCE = Path(__file__).parents[1] / "runtime" / "conformance" / "cases"
pytestmark = pytest.mark.skipif(bool(native_build.why_not()), reason=native_build.why_not())


@pytest.fixture(scope="session")
def programs() -> Path:
    return native_build.build()


def test_it_answers_every_case(programs: Path) -> None:
    done = ask(programs / "ee-conformance", CONFORMANCE)
    count = len(list(CONFORMANCE.glob("*/case.json")))
    assert done.returncode == 0, done.stdout
    assert done.stdout.endswith(f"{count} of {count} cases answered as expected\n")


@pytest.fixture(scope="session")
def native(programs: Path) -> Native:
    return Native(programs)


def refusal(folder: Path, check: str = "quick") -> tuple[str, str]:
    """Returns the class and the text of the error that opening a folder ends with in Python."""
    try:
        load(folder, check=check)  # type: ignore[arg-type]
    except EEToolkitError as error:
        return type(error).__name__, str(error)
    return "OK", ""


def write(folder: Path, manifest: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_bytes(manifest)
    return folder


@pytest.mark.parametrize("case", test_validate.CASES)
def test_it_refuses_a_plan_in_the_same_words(case: str, native: Native, tmp_path: Path) -> None:
    build, _ = test_validate.CASES[case]
    folder = write(tmp_path / "b.ee", seal(msgspec.json.encode(build())))
    assert native.refusal(folder) == refusal(folder)


@pytest.mark.parametrize("seed", range(4))
def test_it_refuses_a_damaged_manifest_as_python_does(seed: int, native: Native, tmp_path: Path) -> None:
    rng = random.Random(seed)  # noqa: S311 - damage is no secret
    seeds = [encode(build().plan()) for build in NETWORKS.values()] + [seal(json.dumps(full()).encode())]
    kinds = set()
    for _ in range(250):
        damage = rng.choice((fuzzing.in_manifest, fuzzing.in_plan))
        folder = write(tmp_path / "b.ee", damage(rng, rng.choice(seeds)))
        found, expected = native.refusal(folder), refusal(folder)
        assert found[0] == expected[0], (found, expected)
        if (
            "JSON is malformed" not in found[1]
        ):  # what is wrong with a text that is no JSON, each parser says its own way
            assert found[1] == expected[1]
        kinds.add(found[0])
    assert {"ManifestError", "IntegrityError"} <= kinds


def changed(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[-1] ^= 1
    path.write_bytes(text)


def replaced(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


GRAPH, WEIGHTS = "segment1-*.onnx", "segment1-*.bin"
DAMAGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda _: None,
    "no manifest": lambda folder: (folder / "manifest.json").unlink(),
    "no folder": shutil.rmtree,
    "a file in its place": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "a manifest that is a folder": lambda folder: replaced(folder / "manifest.json", Path.mkdir),
    "a manifest that is a pipe": lambda folder: replaced(folder / "manifest.json", os.mkfifo),
    "a manifest that is too large": lambda folder: (folder / "manifest.json").write_bytes(b" " * (9 << 20)),
    "an empty manifest": lambda folder: (folder / "manifest.json").write_bytes(b""),
    "a manifest with another digest": lambda folder: edited(folder, b'"name": "', b'"name": "x'),
    "a changed graph": lambda folder: changed(next(folder.glob(GRAPH))),
    "changed weights": lambda folder: changed(next(folder.glob(WEIGHTS))),
    "no graph": lambda folder: next(folder.glob(GRAPH)).unlink(),
    "no weights": lambda folder: next(folder.glob(WEIGHTS)).unlink(),
    "weights that are longer": lambda folder: next(folder.glob(WEIGHTS)).write_bytes(b"x" * 4096),
    "weights that are a link": lambda folder: replaced(
        next(folder.glob(WEIGHTS)), lambda path: path.symlink_to("/dev/zero")
    ),
    "weights that are a pipe": lambda folder: replaced(next(folder.glob(WEIGHTS)), os.mkfifo),
    "a graph that is a folder": lambda folder: replaced(next(folder.glob(GRAPH)), Path.mkdir),
}


def edited(folder: Path, old: bytes, new: bytes) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(old, new, 1))


@pytest.mark.parametrize("check", ["quick", "full"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_it_finds_damaged_files_as_python_does(damage: str, check: str, native: Native, tmp_path: Path) -> None:
    folder = chain(weights=True).save(tmp_path / "b.ee")
    DAMAGES[damage](folder)
    found = native.refusal(folder, full=check == "full")
    if damage == "a file in its place":  # which Python takes for a .zip
        assert found == ("BundleError", f"{folder} is a file, expected a bundle's folder; unpack a .zip of one first")
        return
    assert found == refusal(folder, check)
    assert (found[0] == "OK") == (damage == "nothing" or (damage, check) == ("changed weights", "quick"))


def test_it_refuses_a_graph_that_maps_another_file(native: Native, tmp_path: Path) -> None:
    draft = chain(weights=True)
    folder = draft.save(tmp_path / "b.ee")
    plan = load(folder).manifest
    segment = msgspec.structs.replace(plan.segments["segment1"], weights=())
    edit(folder, segments=dict(plan.segments) | {"segment1": segment})
    found = native.refusal(folder)
    assert found == refusal(folder)
    assert "which is not among the segment's weights" in found[1]


@pytest.mark.parametrize("compiled", EXPORTED, indirect=True)
def test_it_answers_and_verifies_exported_networks_as_python(
    compiled: Compiled, programs: Path, tmp_path: Path
) -> None:
    rows = [dict(row) for row in compiled.samples["random"].rows]
    assert native_build.answers_alike(programs, tmp_path, compiled.bundle, rows) == ""


@pytest.mark.parametrize("network", NETWORKS)
def test_it_answers_drafted_plans_as_python(network: str, programs: Path, tmp_path: Path) -> None:
    bundle = load(NETWORKS[network]().save(tmp_path / "b.ee"))
    spec = bundle.manifest.inputs[0]
    shape = [dim if isinstance(dim, int) else 1 for dim in spec.shape]
    draw = np.random.default_rng(0)
    rows = [{spec.name: draw.normal(size=shape).astype(spec.dtype)} for _ in range(8)]
    native_build.write_case(tmp_path / "cases" / network, bundle, rows, 0.0)
    done = ask(programs / "ee-conformance", tmp_path / "cases", "--threads", "1")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("network", ["chain", "gated", "looped"])
@pytest.mark.parametrize("deadline", [(), ("--deadline-ms", "1e6")])
def test_a_call_after_the_first_allocates_nothing(
    network: str, deadline: tuple[str, ...], programs: Path, tmp_path: Path
) -> None:
    NETWORKS[network]().save(tmp_path / "b.ee")
    np.save(tmp_path / "x.npy", np.float32([[1, 0.1, 0.2, 0.3]]))
    done = ask(programs / "ee-hot", tmp_path / "b.ee", tmp_path / "x.npy", "100", "--threads", "1", *deadline)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["allocations"] == 0


def test_ee_run_refuses_a_file_that_holds_no_row_it_can_read(programs: Path, tmp_path: Path) -> None:
    chain().save(tmp_path / "b.ee")
    np.savez(tmp_path / "x.npz", x=np.float32([[0.1, 0.2, 0.3, 0.4]]))
    done = ask(programs / "ee-run", tmp_path / "b.ee", tmp_path / "x.npz")
    assert done.returncode == 1
    assert done.stderr == f"{tmp_path / 'x.npz'} is neither a .npy file nor a .safetensors file\n"


def test_threads_that_share_a_bundle_answer_alike(programs: Path, tmp_path: Path) -> None:
    chain().save(tmp_path / "b.ee")
    np.save(tmp_path / "x.npy", np.float32([[0.1, 0.2, 0.3, 0.4]]))
    done = ask(programs / "ee-threads", tmp_path / "b.ee", tmp_path / "x.npy")
    assert done.stdout == "0 answers of 200 are unlike the first\n"


@pytest.mark.parametrize("load", [0, 1])
def test_a_provider_that_onnxruntime_does_not_have_is_refused_at_once(
    load: int, native: Native, tmp_path: Path
) -> None:
    folder = chain().save(tmp_path / "b.ee")
    with pytest.raises(NativeError) as caught:
        native.open(folder, ("CPUExecutionProvider", "Nope"), load=load)
    assert caught.value.kind == "ProviderError"
    assert f"{folder}: onnxruntime {onnxruntime.__version__} cannot use the provider 'Nope': " in caught.value.text
    assert "\n" not in caught.value.text


def damaged_array(path: Path) -> None:
    np.save(path, row(0.1))
    path.write_bytes(path.read_bytes().replace(b"(1, 4)", b"      "))


WRONG: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "no input": (lambda _: None, (), "cannot read {}: No such file or directory"),
    "a text": (lambda path: path.write_text("text"), (), "no .npy file"),
    "a shape": (
        lambda path: np.save(path, row()[0]),
        (),
        "InputError: input 'x': got shape [4], expected x: float32[batch, 4]",
    ),
    "a damaged shape": (damaged_array, (), "no .npy file: its shape is damaged"),
    "threads": (lambda _: None, ("--threads", "nan"), "--threads is 'nan', expected a number"),
    "runs": (lambda path: np.save(path, row()), ("--runs", "nan"), "--runs is 'nan', expected a number"),
    "spin": (lambda _: None, ("--spin", "much"), "--spin is 'much', expected brief, always, never"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_program_says_in_one_line_what_is_wrong(wrong: str, programs: Path, tmp_path: Path) -> None:
    folder, array = chain().save(tmp_path / "b.ee"), tmp_path / "x.npy"
    make, options, said = WRONG[wrong]
    make(array)
    done = ask(programs / "ee-run", folder, array, *options)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", said.format(array) + "\n")
    done = ask(programs / "ee-run", folder)
    assert (done.returncode, done.stderr.splitlines()[0][:24]) == (2, "usage: ee-run BUNDLE INP")


def test_a_program_whose_output_is_lost_fails(programs: Path, tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "b.ee")
    np.save(tmp_path / "x.npy", row(0.1))
    done = ask("sh", "-c", f"{programs / 'ee-run'} {folder} {tmp_path / 'x.npy'} >/dev/full")
    assert (done.returncode, done.stderr) == (1, "cannot write to the standard output\n")


OLD = """
struct Base { const void *(*api)(unsigned); const char *(*version)(void); };
static const void *api(unsigned version) { return version > 10 ? 0 : &api; }
static const char *version(void) { return "1.10.0"; }
static const struct Base base = {api, version};
const struct Base *OrtGetApiBase(void) { return &base; }
"""


def test_an_onnxruntime_that_is_missing_or_too_old_is_an_error_that_names_it(programs: Path, tmp_path: Path) -> None:
    folder = chain().save(tmp_path / "b.ee")
    np.save(tmp_path / "x.npy", row(0.1))
    (tmp_path / "old.c").write_text(OLD)
    native_build.run("gcc", "-shared", "-fPIC", "-o", tmp_path / "old.so", tmp_path / "old.c")

    def said(library: str) -> str:
        done = ask(programs / "ee-run", folder, tmp_path / "x.npy", EETOOLKIT_ONNXRUNTIME=library)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
        return done.stderr

    assert said(str(tmp_path / "none.so")).startswith(f"RunError: cannot open onnxruntime: {tmp_path}/none.so: ")
    assert said(str(tmp_path / "old.c")).startswith(f"RunError: cannot open onnxruntime: {tmp_path}/old.c: ")
    assert said(str(tmp_path / "old.so")).startswith("RunError: onnxruntime 1.10.0 is too old, expected 1.")
    assert said(str(programs / "libeetoolkit.so")).endswith(" is no library of onnxruntime: it has no OrtGetApiBase\n")
    done = ask(programs / "ee-run", folder, tmp_path / "x.npy", EETOOLKIT_ONNXRUNTIME="")
    assert "OrtGetApiBase" not in done.stderr  # as the system finds it


def test_without_headers_it_is_skipped_and_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for tool in ("cmake", "g++"):
        (tmp_path / tool).symlink_to(str(shutil.which(tool)))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path))
    monkeypatch.delenv("ONNXRUNTIME_HEADERS", raising=False)
    monkeypatch.setattr(native_build, "headers", native_build.headers.__wrapped__)
    assert native_build.why_not() == (
        "the native runner is not tested: there are no headers of onnxruntime "
        "(headers.sh: there is no apt-get; set ONNXRUNTIME_HEADERS to the folder with onnxruntime_c_api.h)"
    )
