"""Arrows point one way, and a device loads nothing of the host."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from plans import chain, looped

import eetoolkit
import eetoolkit_runtime

ROOT = Path(__file__).parent.parent
RUNTIME = ROOT / "runtime" / "eetoolkit_runtime"
EXPORTERS = ROOT / "exporters" / "eetoolkit_exporters"
PRODUCT = ROOT / "eetoolkit"

DEVICE = {"numpy", "onnxruntime", "msgspec", "eetoolkit_runtime"}
HOST = {"torch", "onnx", "onnx_ir", "onnxscript", "safetensors", "sklearn", "transformers", "eetoolkit_exporters"}
FORBIDDEN = ("torch", "onnx", "onnx_ir", "click", "rich", "eetoolkit_exporters")

HOST_MODULES = {"adapting", "quantizing", "zoo"}
"""The parts of the product that are for the host alone and may import torch at their top."""


def imports(tree: ast.AST) -> Iterator[str]:
    """Yields the top-level package of every import in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield (node.module or "").split(".")[0]


def at_the_top(source: str) -> set[str]:
    """Returns the packages that a module imports when it is itself imported: outside functions and TYPE_CHECKING."""

    def visit(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield from imports(child)
            elif not typing_only and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(child)

    return set(visit(ast.parse(source)))


def modules(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.py"))
    assert found
    return found


def within(path: Path) -> str:
    return str(path.relative_to(ROOT))


EXTRA = {"runtime/eetoolkit_runtime/remote/grpc.py": {"tritonclient"}}
"""What one module of the device imports beside the three libraries, in a function, for those who ask for it: gRPC."""


@pytest.mark.parametrize("path", modules(RUNTIME), ids=within)
def test_the_device_imports_its_three_libraries_the_standard_library_and_itself(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    extra = EXTRA.get(within(path), set())
    assert set(imports(ast.parse(source))) - extra <= DEVICE | sys.stdlib_module_names
    assert at_the_top(source) & extra == set()


ROOMS = [
    {"printable", "errors", "arguments", "arrays", "forked", "log"},
    {"files"}, {"plan"}, {"bundle"}, {"monitoring"}, {"remote"}, {"running"}, {"verify", "truncate"}, {"single_file"},
    {"profiling"}, {"doctor"},
]  # fmt: skip
"""Of the device, from the ground up: modules beside the rooms, and rooms."""


def rooms_above(path: Path) -> set[str]:
    """Returns the modules of rooms above its own that a module of the device imports, lazily too."""
    floor = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
    own = floor[path.relative_to(RUNTIME).parts[0].removesuffix(".py")]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "eetoolkit_runtime":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name for name in names if floor[name.split(".")[1]] > own)
    return found


@pytest.mark.parametrize(
    "path", [p for p in modules(RUNTIME) if p.parent != RUNTIME or p.stem != "__init__"], ids=within
)
def test_no_room_of_the_device_reaches_up(path: Path) -> None:
    assert rooms_above(path) == set()


def test_a_room_that_reached_up_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    running, others = [{"running"}], [rooms for rooms in ROOMS if rooms != {"running"}]
    monkeypatch.setattr(sys.modules[__name__], "ROOMS", [*others[:2], *running, *others[2:]])
    assert rooms_above(RUNTIME / "running" / "runner.py")


@pytest.mark.parametrize("path", modules(EXPORTERS), ids=within)
def test_the_host_does_not_import_the_product(path: Path) -> None:
    assert "eetoolkit" not in set(imports(ast.parse(path.read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "path", [p for p in modules(PRODUCT) if p.relative_to(PRODUCT).parts[0] not in HOST_MODULES], ids=within
)
def test_the_product_imports_the_hosts_libraries_only_where_they_are_used(path: Path) -> None:
    assert at_the_top(path.read_text(encoding="utf-8")) & HOST == set()


def test_the_scan_sees_imports_in_classes_and_ifs_and_not_in_functions_or_for_types() -> None:
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import sklearn
if 1:
    import torch.nn
class A:
    from onnx import helper
def f():
    import onnx_ir
"""
    assert at_the_top(source) == {"typing", "torch", "onnx"}
    assert set(imports(ast.parse(source))) == {"typing", "sklearn", "torch", "onnx", "onnx_ir"}


# What a process really loads

DEVICE_SCRIPT = """
import json, sys
import numpy as np
{extra}
import eetoolkit_runtime as device

for folder in sys.argv[1:]:
    with device.Runner(folder, threads=1) as runner:
        for values in ([0.9, 0, 0, 0], [0.1, 0.9, 0, 0], [0.1, 0.1, 0.1, 0.1]):
            assert runner.run(np.array([values], np.float32)).exit
    device.load(folder, check="full")
print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))
"""


def loaded(folders: list[Path], extra: str = "") -> set[str]:
    """Returns the packages that a new process has loaded after it has run the bundles."""
    script = DEVICE_SCRIPT.format(extra=extra)
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, folders)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout))


def bundles(tmp_path: Path) -> list[Path]:
    return [chain(weights=True).save(tmp_path / "chain.ee"), looped(leave_at=0.2).save(tmp_path / "looped.ee")]


def test_running_a_bundle_loads_nothing_of_the_host(tmp_path: Path) -> None:
    assert loaded(bundles(tmp_path)) & set(FORBIDDEN) == set()


def test_tuning_runs_on_a_device(tmp_path: Path) -> None:
    script = """
import json, sys
import numpy as np
import eetoolkit as ee
x = np.random.default_rng(0).uniform(size=(40, 4)).astype(np.float32)
ee.tune(sys.argv[1], x, np.arange(40) % 4, min_accuracy=0, threads=1).apply(force=True)
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""
    folder = chain(0.5).save(tmp_path / "it.ee")
    done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
    assert {"scipy", "onnxruntime"} <= set(json.loads(done.stdout))
    assert set(json.loads(done.stdout)) & set(FORBIDDEN) == set()


@pytest.mark.parametrize("package", FORBIDDEN)
def test_that_check_would_notice(package: str, tmp_path: Path) -> None:
    stand_in = tmp_path / "stand_in"  # not the real package: that would take seconds, and need not be there
    (stand_in / package).mkdir(parents=True)
    (stand_in / package / "__init__.py").write_text("")
    extra = f"sys.path.insert(0, {str(stand_in)!r})\nimport {package}"
    assert loaded(bundles(tmp_path), extra) & set(FORBIDDEN) == {package}


def test_importing_the_product_loads_nothing_of_the_host() -> None:
    script = "import json, sys, eetoolkit; eetoolkit.Runner; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert {name.split(".")[0] for name in json.loads(done.stdout)} & set(FORBIDDEN) == set()


def test_a_runner_loads_what_is_asked_of_it_later() -> None:
    script = "import sys; from eetoolkit_runtime import Runner; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    later = {"archive", "batch", "golden", "remedies", "stream", "telemetry"}
    assert set(done.stdout.split()) & {f"eetoolkit_runtime.{name}" for name in later} == set()


def test_importing_the_runner_reads_nothing_that_most_calls_do_without() -> None:
    script = (
        "import sys, numpy, onnxruntime, msgspec; before = set(sys.modules); import eetoolkit_runtime.running.runner; "
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    later = {"numpy.typing", "json", "pathlib", "ctypes"}
    later |= {f"eetoolkit_runtime.running.{name}" for name in ("batch", "stream", "telemetry", "interpret", "remedies")}
    later |= {f"eetoolkit_runtime.bundle.{name}" for name in ("golden", "archive", "store", "rewriting")}
    later |= {"http.client", "ssl", "tritonclient", "eetoolkit_runtime.running.handover", "eetoolkit_runtime.remote"}
    assert set(done.stdout.split()) & later == set()


# Public names


@pytest.mark.parametrize("package", [eetoolkit, eetoolkit_runtime], ids=lambda p: p.__name__)
def test_every_public_name_can_be_imported(package: object) -> None:
    assert [name for name in package.__all__ if getattr(package, name, None) is None] == []  # type: ignore[attr-defined]


@pytest.mark.parametrize("package", [eetoolkit, eetoolkit_runtime], ids=lambda p: p.__name__)
def test_type_checkers_see_every_name_that_is_exported_from_where_it_is_and_no_other(package: Any) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    (shown,) = (node for node in tree.body if isinstance(node, ast.If))  # if TYPE_CHECKING
    seen = {}
    for node in shown.body:
        assert isinstance(node, ast.ImportFrom)
        (alias,) = node.names
        assert alias.asname == alias.name, "without `as` a name is not exported, says PEP 484"
        seen[alias.name] = node.module
    assert seen == package._PLACES
    assert package.__all__ == list(package._PLACES)
    assert set(package._PLACES) <= set(dir(package))


def test_the_product_hands_on_every_name_of_the_device() -> None:
    missing = [name for name in eetoolkit_runtime.__all__ if name not in eetoolkit.__all__]
    assert missing == []


def test_every_error_is_in_the_one_tree() -> None:
    errors = importlib.import_module("eetoolkit_runtime.errors")
    found = [value for value in vars(errors).values() if isinstance(value, type)]
    assert len(found) >= 9
    assert all(issubclass(error, errors.EEToolkitError) for error in found)
    assert all(error.__name__ in eetoolkit.__all__ for error in found)
