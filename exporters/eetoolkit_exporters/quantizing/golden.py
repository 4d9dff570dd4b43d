"""Golden samples of a quantised bundle, and how far its answers move on other processors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec
import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.emitting.tolerance import FLIPS
from eetoolkit_exporters.quantizing.onnxruntime_quantizer import ACCURACY_LEVEL
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import Sample, Visit
from eetoolkit_runtime.bundle.store import named_by_content
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import difference

_OF_FLOATS = 1
"""The accuracy level of `MatMulNBits` at which it rounds nothing that it is given."""


def golden_of(bundle: Bundle, samples: Sequence[Sample]) -> list[Sample]:
    """Returns the samples' inputs with what a bundle gives for them."""
    with Runner(bundle, threads=1) as runner:
        found = [(sample, runner.run_all_exits(sample.inputs)) for sample in samples]
    return [
        Sample(sample.inputs, tuple(Visit(each.exit, each.outputs, each.confidence) for each in answers))
        for sample, answers in found
    ]


def between_processors(bundle: Bundle, golden: Sequence[Sample]) -> float:
    """Returns four times what answers change by where blockwise products take floats as they are; 0 without any.

    onnxruntime rounds them to int8 on the processors that it has kernels for: not on ARM64 without dot products, for
    one. A row that a gate sends elsewhere is compared up to there.

    Args:
        bundle: With the segments quantised; further graphs are written into its folder.
        golden: What it gives.
    """
    segments, files = dict(bundle.manifest.segments), dict(bundle.manifest.files)
    for name, segment in bundle.manifest.segments.items():
        model = None if segment.model is None else _of_floats(ir.load(bundle.path / segment.model))
        if model is not None:
            path = bundle.path / "floats.onnx"
            path.write_bytes(ir.to_proto(model).SerializeToString())
            file, entry = named_by_content(path, path.stem)
            files[file] = entry
            segments[name] = msgspec.structs.replace(segment, model=file)
    if segments == bundle.manifest.segments:
        return 0.0
    plan = msgspec.structs.replace(bundle.manifest, segments=segments, files=files)
    found = []
    for here, there in zip(golden, golden_of(Bundle(bundle.path, plan), golden), strict=True):
        for one, other in zip(here.visits, there.visits, strict=False):
            if one.exit != other.exit:
                break
            found += [difference(other.outputs[name], array) for name, array in one.outputs.items()]
            found.append(difference(np.array(other.confidence), np.array(one.confidence)))
    return FLIPS * max((each for each in found if math.isfinite(each)), default=0.0)


def _of_floats(model: ir.Model) -> ir.Model | None:
    """Returns a graph with blockwise products that take floats as they are; None where it has none."""
    level = "accuracy_level"
    products = [node for node in model.graph.all_nodes() if node.attributes.get_int(level, 0) == ACCURACY_LEVEL]
    for node in products:
        node.attributes[level] = ir.AttrInt64(level, _OF_FLOATS)
    return model if products else None
