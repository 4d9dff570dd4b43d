"""Golden samples of quantised bundles on processors that have other kernels than the one that made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conformance_quantised import CLASSES, EXITS, WIDTH, network, quantised
from msgspec.structs import replace
from plans import edit

import eetoolkit as ee
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.store import named_by_content

FOUR_STEPS = 4 / 128


def uneven(path: Path) -> Path:
    """Writes a product for each exit; what it is given has one value by which all others are rounded coarsely."""
    draw = np.random.default_rng(0)
    weights: dict[str, Array] = {"shift": 100 * np.eye(1, WIDTH)}
    text = "h = Add (x, shift)"
    for k in range(EXITS):
        weights[f"w{k}"] = draw.normal(0, 1, (WIDTH, WIDTH)) * (np.arange(WIDTH) > 0)[:, None]
        weights[f"v{k}"] = draw.normal(0, WIDTH**-0.5, (WIDTH, CLASSES))
        text += f" c{k} = MatMul (h, w{k})  r{k} = Relu (c{k})  exit{k} = MatMul (r{k}, v{k})"
    return network(path, f"float[batch, {WIDTH}] x", text, weights)


def of_floats(bundle: ee.Bundle) -> ee.Bundle:
    """Returns the bundle, changed: its products take floats as they are."""
    plan = bundle.manifest
    segments, files = dict(plan.segments), dict(plan.files)
    for name, segment in plan.segments.items():
        model = onnx.load(bundle.path / str(segment.model), load_external_data=False)
        for attribute in (attribute for node in model.graph.node for attribute in node.attribute):
            if attribute.name == "accuracy_level":
                attribute.i = 1
        onnx.save(model, bundle.path / "changed.onnx")
        file, files_entry = named_by_content(bundle.path / "changed.onnx", name)
        del files[str(segment.model)]
        files[file] = files_entry
        segments[name] = replace(segment, model=file)
    return ee.load(edit(bundle.path, segments=segments, files=files))


def test_they_hold_where_blockwise_products_take_floats(tmp_path: Path) -> None:
    rows = list(np.random.default_rng(1).normal(0, 1, (4, 1, WIDTH)).astype(np.float32))
    build = quantised(uneven, rows, "blockwise", (0.5, 0.5))
    bundle = ee.load(build(tmp_path / "b.ee"))
    assert bundle.manifest.golden is not None
    tolerance = bundle.manifest.golden.tolerance
    here, there = ee.verify(bundle), ee.verify(of_floats(bundle))
    assert here.passed
    assert there.passed, str(there)
    change = max(max(check.output_difference, check.confidence_difference) for check in there.exits)
    assert change > FOUR_STEPS
    assert tolerance == pytest.approx(4 * change)
