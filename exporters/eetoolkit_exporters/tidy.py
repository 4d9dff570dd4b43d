"""A graph in the form that the passes expect."""

from __future__ import annotations

import logging

import onnx_ir as ir
from onnx_ir.passes import common as passes

from eetoolkit_runtime.errors import ExportError

_SEQUENCES = {
    "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence",
}  # fmt: skip


_SEQUENCES = {
    "SequenceConstruct", "SequenceEmpty", "SequenceInsert", "SequenceErase", "SequenceMap", "SplitToSequence",
    "Optional",
}  # fmt: skip


def tidy(model: ir.Model, *, infer_shapes: bool) -> ir.Model:
    """Returns the model with functions inlined, constants as initializers, unused nodes gone, every node's opset
    written on it, nodes in topological order, and names unique.

    Raises:
        ExportError: A graph that has no valid order, or functions that call each other for ever.
    """  # noqa: D205 - one sentence
    steps = [
        passes.RemoveInitializersFromInputsPass(),
        passes.InlinePass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.RemoveUnusedNodesPass(),
        passes.TopologicalSortPass(),
        passes.NameFixPass(),
    ]
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model = ir.passes.Sequential(*steps)(model).model
        if infer_shapes:
            model = passes.ShapeInferencePass(check_type=False, strict_mode=False)(model).model
    except Exception as error:
        raise ExportError(f"the graph cannot be read: {error}") from error
    finally:
        logger.setLevel(level)
    for node in model.graph.all_nodes():
        if node.op_type in _SEQUENCES:
            for value in node.outputs:  # onnx_ir reads the inferred type as a tensor's
                value.type, value.shape = None, None
        node.version = model.opset_imports.get(node.domain, 1)
    return model
