"""An `.onnx` file as a graph; its data may be elsewhere, behind a symbolic link."""

from __future__ import annotations

import os
from pathlib import Path

import onnx_ir as ir

from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_runtime.bundle.archive import EXITS
from eetoolkit_runtime.errors import ExportError, first_line

MIN_OPSET = 13


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
