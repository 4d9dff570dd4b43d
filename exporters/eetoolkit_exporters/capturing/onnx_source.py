"""An `.onnx` file as a source, and as a graph; its data may be elsewhere, behind a symbolic link."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from eetoolkit_exporters.capturing.source import LOGITS, Visits, returned_visits, to_array
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.archive import EXITS
from eetoolkit_runtime.errors import ExportError, first_line

MIN_OPSET = 13


class OnnxSource:
    """An `.onnx` file with one or more outputs, from any framework; it runs in onnxruntime without optimisations.

    Args:
        path: The file.
        example_inputs: An array, a tuple in the graph's order, a mapping by name, or None: random ones of its shapes.
        some: Whether the mapping may have further inputs.

    Raises:
        ExportError: The file cannot be loaded, or the inputs do not fit.
    """

    def __init__(self, path: str | os.PathLike[str], example_inputs: Any = None, *, some: bool = False) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"{self.path} does not exist or is not a file; expected an .onnx file")
        if self.path.suffix.lower() in (".pt", ".pth", ".ckpt", ".safetensors"):
            raise ExportError(
                f"{self.path} holds weights, no network; pass the torch module that has loaded them, in a shell "
                f"--model MODULE:FUNCTION --weights {self.path}"
            )
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4  # errors are raised; its log would print names of strangers as they are
        try:
            self._session = ort.InferenceSession(
                str(self.path), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
            given, returned = (
                [(value.name, value.type, value.shape) for value in values]  # names that are no UTF-8 fail here
                for values in (self._session.get_inputs(), self._session.get_outputs())
            )
        except Exception as error:
            fix = f"; copy what links lead to: cp -rL {self.path.parent} COPY" if "escapes" in str(error) else ""
            raise ExportError(f"{self.path}: onnxruntime cannot load it: {_one_line(error)}{fix}") from error
        names = [name for name, _, _ in given]
        for name, kind, _ in (*given, *returned):
            if not kind.startswith("tensor("):
                raise ExportError(
                    f"{self.path}: {name!r} is a {kind}, expected a tensor; for scikit-learn models "
                    "convert with options={'zipmap': False}"
                )
        if example_inputs is None:
            values = [_random(*each) for each in given]
        elif isinstance(example_inputs, Mapping):
            if not set(names) <= set(example_inputs) or (set(names) != set(example_inputs) and not some):
                raise ExportError(f"example_inputs are {sorted(example_inputs)}, the file's inputs are {names}")
            values = [to_array(example_inputs[name]) for name in names]
        else:
            values = [
                to_array(v) for v in (example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,))
            ]
        if len(values) != len(names):
            raise ExportError(f"got {len(values)} example inputs, the file has {len(names)}: {names}")
        self.inputs = dict(zip(names, values, strict=True))
        self._outputs = [name for name, _, _ in returned]
        if twice := [name for name in self._outputs if self._outputs.count(name) > 1]:
            raise ExportError(f"{self.path}: two exits are called {twice[0]!r}; give each its own name")
        self.exits = {name: {LOGITS: name} for name in self._outputs}
        self.marked: dict[str, tuple[str, ...]] = {}
        self.untaken: dict[str, str] = {}
        self.returned = self._outputs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the outputs by name.

        Raises:
            ExportError: onnxruntime fails on these inputs.
        """
        try:
            outputs = self._session.run(None, {name: inputs[name] for name in self.inputs})
        except Exception as error:
            raise ExportError(f"{self.path}: fails on inputs: {_one_line(error)}") from error
        return dict(zip(self._outputs, outputs, strict=True))

    def run_visits(self, inputs: Mapping[str, Array]) -> Visits:
        """Returns the exits in the file's order."""
        return returned_visits(self, self.run(inputs))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _random(name: str, kind: str, dims: Sequence[Any]) -> Array:
    shape = [dim if isinstance(dim, int) and dim > 0 else 1 for dim in dims]
    rng = np.random.default_rng(0)
    if kind in ("tensor(float)", "tensor(double)", "tensor(float16)"):
        kinds = {"tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16}
        return rng.standard_normal(shape).astype(kinds[kind])
    raise ExportError(f"input {name!r} is {kind}: pass example_inputs, random ones would mean nothing")


def read_onnx(source: OnnxSource) -> tuple[ir.Model, Path]:
    """Returns the model, and the folder in which its external data is found.

    Raises:
        ExportError: The file cannot be read, is too old.
    """
    try:
        model = ir.load(source.path)
    except Exception as error:
        raise ExportError(f"{source.path}: cannot be read: {first_line(error)}") from error
    if EXITS in model.metadata_props:
        raise ExportError(
            f"{source.path} is a bundle already, as the one file that `eetoolkit pack --single-file` wrote; "
            "export the network that the bundle was made of"
        )
    opset = model.opset_imports.get("", 0)
    if opset < MIN_OPSET:
        raise ExportError(
            f"{source.path}: opset {opset}, expected {MIN_OPSET} or newer; convert it with onnx's converter"
        )
    return model, _follow_links(model, source.path)


def _follow_links(model: ir.Model, path: Path) -> Path:
    """Lets tensors name the files that links beside the model lead to, as those of Hugging Face's cache do.

    onnx_ir reads no link out of the model's folder. This one is the user's own, and onnxruntime, which wants the data
    beside the model that the link leads to, has just read it.
    """
    folder, real = path.parent, Path(os.path.realpath(path)).parent
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and folder.resolve() != real:
                data = Path(os.path.realpath(folder / tensor.location))
                if not data.is_relative_to(real):
                    raise ExportError(f"{path}: its data is elsewhere; copy what links lead to: cp -rL {folder} COPY")
                value.const_value = ir.ExternalTensor(
                    str(data.relative_to(real)), tensor.offset, tensor.length, tensor.dtype, shape=tensor.shape,
                    name=str(tensor.name), base_dir=real,
                )  # fmt: skip
    return real
