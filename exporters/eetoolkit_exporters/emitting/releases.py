"""Which onnxruntime opens a model: the first release that reads its opsets and its file format."""

from __future__ import annotations

from typing import NamedTuple

import onnx_ir as ir

from eetoolkit_runtime.running.release import VERSION

Version = tuple[int, int]


class Release(NamedTuple):
    """An onnxruntime, and the highest opsets (of ONNX and of `ai.onnx.ml`) and IR version that it reads."""

    version: Version
    onnx: int
    ml: int
    ir: int


RELEASES = (
    Release((1, 18), onnx=21, ml=4, ir=10),
    Release((1, 19), onnx=21, ml=5, ir=10),
    Release((1, 21), onnx=22, ml=5, ir=10),
    Release((1, 23), onnx=23, ml=5, ir=11),
    Release((1, 24), onnx=25, ml=5, ir=13),
    Release((1, 25), onnx=26, ml=5, ir=13),
    Release((1, 32), onnx=28, ml=5, ir=14),
)
"""Every release that reads more than the one before it. 1.18 is from
https://onnxruntime.ai/docs/reference/compatibility.html; the others were asked to open models of every opset and IR
version (the wheels 1.19.2, 1.20.1, 1.21.1, 1.22.1, 1.23.2, 1.24.4, 1.25.1, 1.27.0, 1.29.0, 1.31.1 and 1.32.0)."""


_EIGHT_BITS: Version = (1, 22)
"""The first whose `MatMulNBits` takes 8 bits; 1.21.1 refuses to open such a model."""


def least_onnxruntime(model: ir.Model) -> Version:
    """Returns the first release that reads a model; the installed one where none that is known does.

    Other operators of onnxruntime's own (`com.microsoft`) count for nothing: all are of version 1, whenever they came.
    """
    imports = model.opset_imports
    blockwise = any(
        node.op_type == "MatMulNBits" and node.attributes.get_int("bits", 4) == 8 for node in model.graph.all_nodes()
    )
    for release in RELEASES:
        if (
            imports.get("", 0) <= release.onnx
            and imports.get("ai.onnx.ml", 0) <= release.ml
            and model.ir_version <= release.ir
        ):
            return max(release.version, _EIGHT_BITS) if blockwise else release.version
    major, minor = VERSION
    return major, minor
