"""Which onnxruntime a bundle needs: the table against onnx's own and the installed one, and what a bundle says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, parser

import eetoolkit as ee
from eetoolkit_exporters.emitting.releases import RELEASES, least_onnxruntime

HERE = tuple(int(part) for part in ort.__version__.split(".")[:2])


def model(onnx_opset: int, ml: int = 0, ir_version: int = 10) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "net", values[:1], values[1:])
    imports = [helper.make_opsetid("", onnx_opset), *([helper.make_opsetid("ai.onnx.ml", ml)] if ml else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version)


def opens(proto: onnx.ModelProto) -> bool:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:  # noqa: BLE001 - whatever it says, it does not open
        return False
    return True


def least(proto: onnx.ModelProto) -> tuple[int, int]:
    return least_onnxruntime(ir.from_proto(proto))


def test_every_release_reads_what_a_release_of_onnx_defines() -> None:
    """`onnx.helper.VERSION_TABLE` holds (release, IR version, opset, opset of ai.onnx.ml, ...)."""
    defined = {(opset, version) for _, version, opset, *_ in onnx.helper.VERSION_TABLE}
    for release in RELEASES:
        assert (release.onnx, release.ir) in defined
    for before, after in pairwise(RELEASES):
        assert before.version < after.version
        assert all(a <= b for a, b in zip(before[1:], after[1:], strict=True))


def test_the_installed_onnxruntime_opens_what_the_table_says_and_refuses_what_it_gives_to_later_ones() -> None:
    (*_, own) = (release for release in RELEASES if release.version <= HERE)
    assert opens(model(own.onnx, own.ml, own.ir))
    for later in (release for release in RELEASES if release.version > HERE):
        assert not opens(model(later.onnx, later.ml, later.ir))


@pytest.mark.parametrize(
    ("onnx_opset", "ml", "ir_version", "expected"),
    [
        (13, 0, 8, (1, 18)), (21, 4, 10, (1, 18)), (21, 5, 10, (1, 19)), (22, 0, 10, (1, 21)), (18, 0, 11, (1, 23)),
        (24, 0, 10, (1, 24)), (18, 1, 13, (1, 24)), (26, 3, 13, (1, 25)), (27, 0, 10, (1, 32)),
    ],
)  # fmt: skip
def test_the_least_is_the_first_release_that_reads_all_of_it(
    onnx_opset: int, ml: int, ir_version: int, expected: tuple[int, int]
) -> None:
    assert least(model(onnx_opset, ml, ir_version)) == expected


@pytest.mark.parametrize(("bits", "onnx_opset", "expected"), [(4, 20, (1, 18)), (8, 20, (1, 22)), (8, 24, (1, 24))])
def test_products_with_blocks_of_8_bits_need_the_release_that_brought_them(
    bits: int, onnx_opset: int, expected: tuple[int, int]
) -> None:
    proto = model(onnx_opset)
    proto.graph.node.append(helper.make_node("MatMulNBits", ["y"], ["z"], domain="com.microsoft", bits=bits))
    assert least(proto) == expected


def test_of_what_no_known_release_reads_the_one_in_use_is_the_least() -> None:
    assert least(model(RELEASES[-1].onnx + 1)) == HERE


@pytest.mark.parametrize(("opset", "needed"), [(18, "1.18"), (22, "1.21")])
def test_a_bundle_says_the_least_that_reads_all_its_graphs_and_a_pruned_one_too(
    opset: int, needed: str, tmp_path: Path
) -> None:
    """A cascade, of which one stage is older than the other."""
    for name, version in (("old", 17), ("new", opset)):
        text = f'<ir_version: 9, opset_import: ["" : {version}]> net (float[batch,4] x) => (float[batch,4] y)'
        onnx.save(parser.parse_model(f"{text} {{ y = Neg (x) }}"), tmp_path / f"{name}.onnx")
    stages = [tmp_path / "new.onnx", tmp_path / "old.onnx"]
    bundle = ee.export(stages, np.ones((1, 4), np.float32), tmp_path / "n.ee", dynamic_batch=False)
    assert bundle.manifest.onnxruntime == needed
    graphs = [onnx.load(bundle.path / str(s.model)) for s in bundle.manifest.segments.values()]
    assert max(map(least, graphs)) == tuple(map(int, needed.split(".")))
    assert ee.prune(bundle, [], tmp_path / "p.ee").manifest.onnxruntime == needed
    assert ee.truncate(bundle, "exit0", tmp_path / "t.ee").manifest.onnxruntime == needed
