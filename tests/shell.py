"""Every verb of the command line on one small bundle, as the tests of the shell run them.

Names of the bundle all begin with one mark: with `WICKED` it is a stranger's, made to be obeyed or to hide.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner, Result
from plans import chain, recorded, row
from quantization_reports import edit, small

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.bundle.golden import store_golden
from eetoolkit_runtime.plan.manifest import decode, encode
from eetoolkit_runtime.plan.types import Manifest, Work
from eetoolkit_runtime.running.runner import Runner

WICKED = "a\x1b[31m\x9b2J\nerror: forged\r\u202eb\u200b\x07[red]</script><b>:0:"
LONG = "a_name_that_somebody_took_some_care_to_make_long_"
QUICK = ("--seconds", "0", "--threads", "1", "--pool", "own")

CALLS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "b.ee"),
    "inspect json": ("inspect", "b.ee", "--json"),
    "inspect mermaid": ("inspect", "b.ee", "--mermaid"),
    "run": ("run", "b.ee", "x.npy", "--pool", "own"),
    "run json": ("run", "b.ee", "x.npy", "--pool", "own", "--json", "--outputs"),
    "run nan": ("run", "b.ee", "nan.npy", "--pool", "own"),
    "run bad": ("run", "b.ee", "bad.npy", "--pool", "own"),
    "run late": ("run", "b.ee", "x.npy", "--pool", "own", "--deadline-ms", "0.000001"),
    "run exit": ("run", "b.ee", "x.npy", "--pool", "own", "--exit-at", "nope"),
    "run threshold": ("run", "b.ee", "x.npy", "--pool", "own", "--threshold", "nope=1"),
    "run remote": (
        "run",
        "b.ee",
        "x.npy",
        "--pool",
        "own",
        "--remote",
        "http://localhost:1/v2/models/it",
        "--from",
        "nope",
    ),
    "verify": ("verify", "b.ee"),
    "verify json": ("verify", "b.ee", "--json"),
    "doctor": ("doctor", "b.ee", "--seconds", "0"),
    "doctor json": ("doctor", "b.ee", "--seconds", "0", "--json"),
    "profile": ("profile", "b.ee", *QUICK, "--operators"),
    "profile json": ("profile", "b.ee", *QUICK, "--json"),
    "profile show": ("profile", "--show", "p.json"),
    "profile compare": ("profile", "--compare", "p.json", "q.json"),
    "tune": ("tune", "b.ee", "--record", "r.npz", "--max-accuracy-drop", "0.05"),
    "tune json": ("tune", "b.ee", "--record", "r.npz", "--json"),
    "tune risk": ("tune", "b.ee", "--record", "r.npz", "--risk", "0.3"),
    "tune profile": ("tune", "b.ee", "--record", "r.npz", "--profile", "p.json", "--budget-ms", "1"),
    "tune fleet": (
        "tune",
        "b.ee",
        "--record",
        "r.npz",
        "--profile",
        "fleet",
        "--for",
        "p90-device",
        "--budget-ms",
        "1",
    ),
    "profiles": ("profiles", "fleet"),
    "profiles json": ("profiles", "fleet", "--json"),
    "truncate": ("truncate", "b.ee", "--at", "nope"),
    "split": ("split", "b.ee", "--at", "nope", "--out-device", "d.ee", "--out-server", "repo"),
    "split list": ("split", "b.ee", "--list"),
    "split list json": ("split", "b.ee", "--list", "--json"),
    "pack": ("pack", "b.ee", "-o", "packed.zip", "--overwrite"),
    "pack json": ("pack", "b.ee", "-o", "packed.zip", "--overwrite", "--json"),
    "pack single file": ("pack", "b.ee", "-o", "packed.onnx", "--overwrite", "--single-file"),
    "quantize": ("quantize", "b.ee", "--data", "val.npz", "-o", "int8.ee"),
    "quantize json": ("quantize", "b.ee", "--data", "val.npz", "-o", "int8.ee", "--json"),
    "export": ("export", "net.onnx", "-o", "out.ee", "--overwrite"),
    "serve": ("serve", "b.ee", "--lan", "--http", "--host", "localhost"),
    "serve export": ("serve", "b.ee", "--export", "page", "--overwrite", "--json"),
    "zoo": ("zoo", "list"),
    "help": ("--help",),
}
"""Command lines by what they show, to be run in a folder that `lay_out` has filled."""


def call(*arguments: str, columns: int | None = None) -> Result:
    """Runs the command line in this process, on a terminal of so many columns; None: to a pipe."""
    settings = {} if columns is None else {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": str(columns)}
    return CliRunner(env=settings).invoke(main, arguments)


@contextlib.contextmanager
def laid_out(folder: Path, mark: str = "") -> Iterator[Path]:
    """Makes a folder the working directory, with a bundle `b.ee` and what else `CALLS` name; `hold`s meanwhile.

    What is printed does not lean on the rule of names, which would refuse a stranger's bundle here.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eetoolkit_runtime.plan.validate.check_names", lambda plan: None)
        patch.chdir(folder)
        patch.setenv("EETOOLKIT_CACHE", str(folder / "cache"))
        _lay_out(folder, mark)
        hold(patch)
        yield folder


def _lay_out(folder: Path, mark: str) -> None:
    bundle(folder / "b.ee", mark)
    x = np.random.default_rng(0).uniform(0, 1, (60, 4)).astype(np.float32)
    np.save("x.npy", x[:2])
    np.save("bad.npy", x[:, :3])
    np.save("nan.npy", np.where(np.arange(4) == 0, np.nan, x[:2]))
    np.savez("val.npz", x=x, labels=x.argmax(axis=1))
    Path("net.onnx").write_bytes(_network(mark))
    for name in ("p.json", "q.json"):
        _done(call("profile", "b.ee", "--inputs", "val.npz", *QUICK, "--operators", "-o", name))
    Path("fleet").mkdir()
    for name in ("one", "two", "two-2"):
        shutil.copy("p.json", f"fleet/{name}.json")
    _done(call("tune", "b.ee", "--data", "val.npz", "--record", "r.npz"))


def bundle(folder: Path, mark: str = "") -> Path:
    """Writes a chain of three exits with golden samples, every name of which begins with the mark."""
    draft = chain()
    for graph in draft.graphs.values():
        for number, node in enumerate(graph.graph.node):
            node.name = f"{mark}{number}"
    plan = decode((draft.save(folder) / "manifest.json").read_bytes())
    names = {*plan.segments, *plan.slots, *plan.exits}
    plan = msgspec.convert(_marked(msgspec.to_builtins(plan), mark, names), Manifest)
    work = Work(nodes=3, parameters=25_557_032, multiply_adds=4_089_184_256)
    segments = {name: msgspec.structs.replace(segment, work=work) for name, segment in plan.segments.items()}
    told: dict[str, Any] = {
        "name": mark + "drafted",
        "segments": segments,
        "labels": tuple(f"{mark}{number}" for number in range(4)),
        "notes": (mark + "is a note", "another " + mark),
        "created_with": {"tests": mark + "1", "source": mark + "a test", mark + "by": 1},
    }
    plan = msgspec.structs.replace(plan, **told)
    (folder / "manifest.json").write_bytes(encode(plan))
    with Runner(folder, threads=1) as runner:
        samples = [recorded(runner, row(0.9, 0.1)), recorded(runner, row(0.1, 0.9))]
    golden, files = store_golden(folder, samples, 1e-4)
    plan = msgspec.structs.replace(plan, golden=golden, files=dict(plan.files) | files)
    (folder / "manifest.json").write_bytes(encode(plan))
    return folder


def hold(patch: pytest.MonkeyPatch) -> None:
    """Has what is found out afresh at each call found out once: what `tune` and `doctor` print, they print again.

    `quantize` prints a small report of the bundle's names, as its graphs have no weights. `serve` ends when it has
    begun, with a page of one file.
    """
    page = Path("static")
    page.mkdir()
    (page / "index.html").write_text("<!doctype html>")
    patch.setattr("eetoolkit.serve.site.STATIC", page.absolute())
    patch.setattr("eetoolkit.serve.onnxruntime_web.assets", lambda *_, **__: {})
    patch.setattr("eetoolkit.serve.server.serve_until_stopped", lambda *_, started: started())
    patch.setattr(ee, "quantize", _quantized, raising=False)
    for name in ("tune", "doctor"):
        patch.setattr(ee, name, _once(getattr(ee, name)), raising=False)


def _quantized(bundle: ee.Bundle, *_: Any, **__: Any) -> ee.QuantizationReport:
    found, plan = small(), bundle.manifest
    return edit(
        found,
        bundle=plan.name,
        verdict=f"0.28 of the bytes of {plan.name}",
        segments=tuple(edit(each, name=name) for each, name in zip(found.segments, plan.segments, strict=False)),
        exits=tuple(edit(each, name=name) for each, name in zip(found.exits, plan.exits, strict=False)),
        notes=plan.notes,
    )


def _once(find: Callable[..., Any]) -> Callable[..., Any]:
    found: dict[str, Any] = {}

    def again(*arguments: Any, progress: Any = None, **options: Any) -> Any:
        key = f"{Path.cwd()} {options}"
        if key not in found:
            found[key] = find(*arguments, progress=progress, **options)
        return found[key]

    return again


def _marked(value: Any, mark: str, names: set[str]) -> Any:
    """Returns a manifest as JSON has it with these names marked; `logits` is what an exit's own output is called."""
    if isinstance(value, dict):
        return {
            (key if key == "logits" else _marked(key, mark, names)): _marked(each, mark, names)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [_marked(each, mark, names) for each in value]
    return mark + value if isinstance(value, str) and value in names else value


def _network(mark: str) -> bytes:
    """Returns an ONNX file of two exits whose names begin with the mark; the input is `x`."""
    from onnx import TensorProto, helper

    names = [mark + "early", mark + "late"]
    row_of_4 = (TensorProto.FLOAT, ["batch", 4])
    nodes = [helper.make_node("Sin", ["x"], names[:1]), helper.make_node("Cos", names[:1], names[1:])]
    outputs = [helper.make_tensor_value_info(name, *row_of_4) for name in names]
    graph = helper.make_graph(nodes, "network", [helper.make_tensor_value_info("x", *row_of_4)], outputs)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def _done(result: Result) -> None:
    assert result.exit_code == 0, result.output


def words(text: str) -> Sequence[str]:
    """Returns the words of a text, without what charts are drawn of and the colon behind a heading."""
    return [word.removesuffix(":") for word in text.split() if any(character.isalnum() for character in word)]
