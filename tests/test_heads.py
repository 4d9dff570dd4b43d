"""What heads gather, against plain numpy, in torch and in the graph that they become."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch

import eetoolkit as ee
from eetoolkit_exporters.attaching.attach import append_modules
from eetoolkit_exporters.attaching.heads import Everywhere, FeatureLayout, Gather, Pointwise, kinds_of, parts_of

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

SHAPES = {
    "even": (3, 4, 6, 8), "odd": (3, 4, 5, 7), "last": (3, 6, 8, 4), "signal": (3, 4, 9), "half": (3, 4, 6, 8),
    "tokens": (3, 5, 4), "steps": (5, 3, 4), "pooled": (3, 4),
}  # fmt: skip
LAYOUTS = {
    name: FeatureLayout(
        tuple(None if axis == (1 if name == "steps" else 0) else size for axis, size in enumerate(shape)),
        1 if name == "steps" else 0,
        len(shape) - 1 if name in ("last", "tokens", "steps") else 1,
    )
    for name, shape in SHAPES.items()
}
DRAW = np.random.default_rng(0)
X: dict[str, Array] = {name: DRAW.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
X["half"] = X["half"].astype(np.float16)
MASK = np.array([[1, 1, 1, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 1, 1]])
KEPT = MASK.astype(bool)


def parts(x: Array, bins: int) -> list[list[slice]]:
    """Returns along each axis behind the second where its parts are: as wide as the rest leaves the last."""
    found = []
    for size in x.shape[2:]:
        step = size // bins
        found.append([slice(n * step, n * step + size - (bins - 1) * step) for n in range(bins)])
    return found


def grid(x: Array) -> Array:
    """Returns the means of parts of (batch, channels, positions...), channels slowest."""
    if x.ndim == 3:
        means = [x[:, :, a].mean(2) for a in parts(x, 4)[0]]
    else:
        rows, columns = parts(x, 2)
        means = [x[:, :, a, b].mean((2, 3)) for a in rows for b in columns]
    return np.stack(means, 2).reshape(len(x), -1)


def kept_of(x: Array, row: int) -> Array:
    return x[row][KEPT[row]]


CASES: list[tuple[str, str, str | None, Callable[[Array], Array]]] = [
    ("even", "mean", None, lambda x: x.mean((2, 3))),
    ("even", "max", None, lambda x: x.max((2, 3))),
    ("even", "grid", None, grid),
    ("odd", "grid", None, grid),
    ("last", "mean", None, lambda x: x.mean((1, 2))),
    ("last", "max", None, lambda x: x.max((1, 2))),
    ("last", "grid", None, lambda x: grid(x.transpose(0, 3, 1, 2))),
    ("signal", "mean", None, lambda x: x.mean(2)),
    ("signal", "max", None, lambda x: x.max(2)),
    ("signal", "grid", None, grid),
    ("half", "mean", None, lambda x: x.astype(np.float32).mean((2, 3))),
    ("half", "max", None, lambda x: x.astype(np.float32).max((2, 3))),
    ("half", "grid", None, lambda x: grid(x.astype(np.float32))),
    ("tokens", "first", None, lambda x: x[:, 0]),
    ("tokens", "last", None, lambda x: x[:, -1]),
    ("tokens", "mean", None, lambda x: x.mean(1)),
    ("tokens", "mean", "mask", lambda x: np.stack([kept_of(x, row).mean(0) for row in range(3)])),
    ("tokens", "max", "mask", lambda x: np.stack([kept_of(x, row).max(0) for row in range(3)])),
    ("tokens", "mean", "padding", lambda x: np.stack([kept_of(x, row).mean(0) for row in range(3)])),
    ("tokens", "max", "padding", lambda x: np.stack([kept_of(x, row).max(0) for row in range(3)])),
    ("tokens", "first", "mask", lambda x: np.stack([kept_of(x, row)[0] for row in range(3)])),
    ("tokens", "last", "mask", lambda x: np.stack([kept_of(x, row)[-1] for row in range(3)])),
    ("steps", "first", None, lambda x: x[0]),
    ("steps", "last", None, lambda x: x[-1]),
    ("steps", "mean", "mask", lambda x: np.stack([kept_of(x.swapaxes(0, 1), row).mean(0) for row in range(3)])),
    ("steps", "max", "mask", lambda x: np.stack([kept_of(x.swapaxes(0, 1), row).max(0) for row in range(3)])),
    ("pooled", "mean", None, lambda x: x),
]
NAMES = [f"{what} {part} {mask}" for what, part, mask, _ in CASES]
GIVEN: dict[str, Array] = {**X, "mask": MASK, "padding": ~KEPT}


def gather(what: str, part: str, mask: str | None) -> Gather:
    return Gather(part, LAYOUTS[what], keeps=mask != "padding")


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_what_is_gathered_is_that_of_numpy(case: tuple[str, str, str | None, Callable[[Array], Array]]) -> None:
    what, part, mask, formula = case
    given = [torch.from_numpy(GIVEN[name]) for name in (what, mask) if name is not None]
    found = gather(what, part, mask)(*given)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), formula(X[what]), rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def grafted() -> dict[str, Array]:
    """Returns what all of them gather in one graph of opset 13, run by onnxruntime."""
    dims = {name: ",".join("batch" if size == 3 else str(size) for size in shape) for name, shape in SHAPES.items()}
    inputs = [f"{'float16' if name == 'half' else 'float'}[{dim}] {name}" for name, dim in dims.items()]
    inputs += ["int64[batch,5] mask", "bool[batch,5] padding"]
    text = f"net ({', '.join(inputs)}) => (float[batch,4] y) {{ y = Identity (pooled) }}"
    graph = ir.from_proto(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {text}')).graph
    for node in graph:
        node.version = 13
    values = {str(value.name): value for value in graph.inputs}
    modules = {
        name: (gather(what, part, mask), [values[each] for each in (what, mask) if each is not None])
        for name, (what, part, mask, _) in zip(NAMES, CASES, strict=True)
    }
    outputs = append_modules(graph, modules)
    graph.outputs[:] = list(outputs.values())
    model = ir.to_proto(ir.Model(graph, ir_version=8))
    onnx.checker.check_model(model)
    found = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, GIVEN)
    return dict(zip(outputs, found, strict=True))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_graph_gathers_the_same(
    case: tuple[str, str, str | None, Callable[[Array], Array]], grafted: dict[str, Array]
) -> None:
    what, part, mask, formula = case
    found = grafted[f"{what} {part} {mask}"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, formula(X[what]), rtol=1e-5, atol=1e-6)


def test_a_row_of_which_nothing_is_kept_has_a_mean_of_nothing() -> None:
    found = gather("tokens", "mean", "mask")(torch.from_numpy(X["tokens"]), torch.zeros(3, 5, dtype=torch.long))
    assert torch.equal(found, torch.zeros(3, 4))


def test_a_row_of_float16_does_not_overflow_in_its_sum() -> None:
    features = torch.full((1, 1, 64, 64), 100.0, dtype=torch.float16)
    assert Gather("mean", FeatureLayout((None, 1, 64, 64), 0, 1))(features).item() == 100


@pytest.mark.parametrize(
    ("kind", "gathered"),
    [("mean", (["mean"], False)), ("mean+max", (["mean", "max"], False)), ("first+mlp", (["first"], True))],
)
def test_a_kind_is_spelled_by_what_it_gathers(kind: str, gathered: tuple[list[str], bool]) -> None:
    assert parts_of(kind) == gathered


@pytest.mark.parametrize("kind", ["", "mlp", "mean+", "mean+mlp+max", "avg", "Mean", "mean max"])
def test_no_other_kind_is_known(kind: str) -> None:
    with pytest.raises(ee.ExportError, match=r"expected mean, max, grid, first, last, or some with \+ between"):
        parts_of(kind)


@pytest.mark.parametrize(
    ("what", "kinds"),
    [
        ("even", ("mean", "mean+max", "mean+max+grid")),
        ("signal", ("mean", "mean+max", "mean+max+grid")),
        ("tokens", ("first", "last", "mean", "mean+max")),
        ("pooled", ("mean",)),
    ],
)
def test_features_have_their_kinds(what: str, kinds: tuple[str, ...]) -> None:
    assert kinds_of(LAYOUTS[what]) == kinds


def test_an_image_of_varying_size_or_of_one_pixel_has_no_grid() -> None:
    for sizes in ((None, 4, None, 6), (None, 4, 1, 6)):
        layout = FeatureLayout(sizes, 0, 1)
        assert kinds_of(layout) == ("mean", "mean+max")
        with pytest.raises(ee.ExportError, match="have no grid: it needs positions of fixed sizes"):
            Gather("grid", layout)


@pytest.mark.parametrize("part", ["first", "last"])
def test_an_image_has_no_first_step(part: str) -> None:
    with pytest.raises(ee.ExportError, match=f"are no sequence: they have no {part} step"):
        Gather(part, LAYOUTS["even"])


@pytest.mark.parametrize("what", ["even", "last", "tokens", "steps"])
def test_a_dense_head_is_a_linear_layer_at_every_position(what: str) -> None:
    layout = LAYOUTS[what]
    classify = Pointwise(4, 2, axis=X[what].ndim - 1)
    with torch.no_grad():
        found = classify(Everywhere(layout, None)(torch.from_numpy(X[what]))).numpy()
    weight, bias = (each.detach().numpy() for each in classify.linear.parameters())
    expected = np.moveaxis(X[what], (layout.rows, layout.channels), (0, -1)) @ weight.T + bias
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
