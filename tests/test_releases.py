"""Which onnxruntime a bundle needs: the table against onnx's own and the installed one, and what a bundle says."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

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


def product(bits: int | None, opset: int = 18) -> onnx.ModelProto:
    """Returns a product with 8 x 32 weights of so many bits; None: of the operator's default."""
    count = bits or 4
    inits = [
        numpy_helper.from_array(np.full((8, 1, 4 * count), 255, np.uint8), "w"),
        numpy_helper.from_array(np.ones(8, np.float32), "s"),
    ]
    given = {} if bits is None else {"bits": bits}
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"],
        domain="com.microsoft", K=32, N=8, block_size=32, accuracy_level=4, **given,
    )  # fmt: skip
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n]) for name, n in (("x", 32), ("y", 8))]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([node], "net", ends[:1], ends[1:], inits)
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


@pytest.mark.parametrize(("bits", "expected"), [(None, (1, 18)), (4, (1, 18)), (8, (1, 23)), (2, (1, 24))])
def test_an_operator_of_onnxruntimes_own_counts_by_its_attribute(bits: int | None, expected: tuple[int, int]) -> None:
    assert least(product(bits)) == expected
    assert opens(product(bits)) or expected > HERE


def test_what_needs_more_counts_the_operator_or_the_opset() -> None:
    assert least(product(8, opset=26)) == (1, 25)


def test_an_operator_inside_a_branch_counts() -> None:
    inner = product(8).graph
    del inner.input[:]
    branch = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    ends = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32]),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8]),
    ]
    outer = helper.make_model(helper.make_graph([branch], "net", ends[:2], ends[2:]), ir_version=9)
    outer.opset_import[0].version = 18
    outer.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert least(outer) == (1, 23)


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
