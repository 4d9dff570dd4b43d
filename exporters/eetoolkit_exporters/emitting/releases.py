"""Which onnxruntime opens a model: the first release that reads its opsets, its file format and its own operators."""

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

OPERATORS: dict[tuple[str, str, int], Version] = {
    ("MatMulNBits", "bits", 8): (1, 23),
    ("MatMulNBits", "bits", 2): (1, 24),
}
"""The first release that runs an operator of `com.microsoft` with such an attribute, on x86 and on ARM. The domain has
one version, whenever what is in it came; the wheels named above were asked. 1.22 runs 8 bits on x86 alone, and there
with `accuracy_level` 4 alone (https://github.com/microsoft/onnxruntime/issues/24769)."""


def least_onnxruntime(model: ir.Model) -> Version:
    """Returns the first release that reads a model; the installed one where none that is known does.

    An operator of onnxruntime's own (`com.microsoft`) that is not among `OPERATORS` counts for nothing.
    """
    needed = [
        OPERATORS.get((node.op_type, name, attribute.value), RELEASES[0].version)
        for graph in model.graphs()
        for node in graph
        if node.domain == "com.microsoft"
        for name, attribute in node.attributes.items()
        if attribute.type == ir.AttributeType.INT
    ]
    return max([_of_versions(model), *needed])


def _of_versions(model: ir.Model) -> Version:
    imports = model.opset_imports
    for release in RELEASES:
        if (
            imports.get("", 0) <= release.onnx
            and imports.get("ai.onnx.ml", 0) <= release.ml
            and model.ir_version <= release.ir
        ):
            return release.version
    major, minor = VERSION
    return major, minor
