"""What a caller hands over is refused with the fix, or put into the network's order, dtypes and shapes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from plans import Array, chain

from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Manifest, Preprocess, TensorSpec
from eetoolkit_runtime.running.inputs import normalize, prepare, split_rows

BERT = (("ids", "int64", ("batch", "length")), ("mask", "int64", ("batch", "length")))
IMAGE = (("image", "float32", ("batch", 3, 2, 2)),)


def network(*inputs: tuple[str, str, tuple[int | str | None, ...]], **preprocess: Preprocess) -> Manifest:
    """Returns a plan with these inputs; nothing else of it matters here."""
    specs = tuple(TensorSpec(name=name, dtype=dtype, shape=shape) for name, dtype, shape in inputs)
    return msgspec.structs.replace(chain().plan(), inputs=specs, preprocess=preprocess)


X = network(("x", "float32", ("batch", 4)))


def refusal(plan: Manifest, inputs: Any, *, one_row: bool = True) -> str:
    """Returns the text of the error."""
    with pytest.raises(InputError) as caught:
        prepare(plan, inputs, one_row=one_row)
    return str(caught.value)


def ones(*shape: int, dtype: str = "float32") -> Array:
    return np.ones(shape, dtype)


def test_a_missing_batch_dimension_is_refused_with_the_fix() -> None:
    assert refusal(X, ones(4)) == (
        "input 'x': got shape [4], expected x: float32[batch, 4]; add the batch dimension: x[None]"
    )


def test_a_shape_of_another_rank_is_refused_without_a_wrong_fix() -> None:
    assert refusal(X, ones(1, 4, 1)) == "input 'x': got shape [1, 4, 1], expected x: float32[batch, 4]"


def test_a_missing_dimension_that_is_not_the_batch_is_refused_without_a_wrong_fix() -> None:
    plan = network(("x", "float32", ("length", 4)))
    assert refusal(plan, ones(4)) == "input 'x': got shape [4], expected x: float32[length, 4]"


def test_another_size_is_refused() -> None:
    assert refusal(X, ones(1, 5)) == "input 'x': got shape [1, 5], expected x: float32[batch, 4]"


def test_a_symbol_of_two_sizes_is_refused_with_the_first() -> None:
    assert refusal(network(*BERT), (ones(1, 5, dtype="int64"), ones(1, 6, dtype="int64"))) == (
        "input 'mask': got shape [1, 6], expected mask: int64[batch, length] (length is 5 elsewhere)"
    )


def test_a_dimension_without_a_name_takes_any_size() -> None:
    plan = network(("x", "float32", ("batch", None)), ("y", "float32", ("batch", None)))
    assert [a.shape for a in prepare(plan, (ones(1, 5), ones(1, 6)), one_row=True)] == [(1, 5), (1, 6)]


def test_an_unnamed_dimension_is_spelled_with_a_question_mark() -> None:
    assert refusal(network(("x", "float32", ("batch", None))), ones(3)).endswith(
        "expected x: float32[batch, ?]; add the batch dimension: x[None]"
    )


def test_several_rows_are_refused_with_the_fix() -> None:
    assert refusal(X, ones(3, 4)) == "got 3 rows, `run` takes one; pass them to `run_batch`"


def test_several_rows_are_taken_where_they_may_come() -> None:
    assert prepare(X, ones(3, 4), one_row=False)[0].shape == (3, 4)


@pytest.mark.parametrize("one_row", [True, False])
def test_no_rows_are_refused(one_row: bool) -> None:
    assert refusal(X, ones(0, 4), one_row=one_row) == (
        "input 'x': got the empty shape [0, 4], expected x: float32[batch, 4]"
    )


def test_an_empty_length_is_refused() -> None:
    plan = network(("x", "float32", ("batch", "length")))
    assert "got the empty shape [1, 0], expected x: float32[batch, length]" in refusal(plan, ones(1, 0))


def test_another_dtype_is_refused_with_the_fix() -> None:
    assert refusal(X, ones(1, 4, dtype="int64")) == (
        "input 'x': got dtype int64, expected x: float32[batch, 4]; convert it: x.astype('float32')"
    )


@pytest.mark.parametrize(
    ("dtype", "value"), [("float64", 1), ("float16", 1), ("bool", True), ("str", "1"), ("object", 1)]
)
def test_a_dtype_that_would_lose_meaning_is_not_converted(dtype: str, value: object) -> None:
    plan = network(("x", "int64", (1,)))
    assert refusal(plan, np.array([value], dtype)).endswith("convert it: x.astype('int64')")


def test_pixels_are_refused_by_a_network_that_does_not_say_how_to_scale_them() -> None:
    assert refusal(X, ones(1, 4, dtype="uint8")) == (
        "input 'x': got dtype uint8, expected x: float32[batch, 4]; "
        "scale it as in training, or give the bundle `preprocess` at export"
    )


def test_float64_becomes_float32() -> None:
    array = prepare(X, [[0.1, 0.2, 0.3, 0.4], [1, 2, 3, 4]], one_row=False)[0]
    assert array.dtype == np.float32


@pytest.mark.parametrize("given", ["float16", "float32", "float64"])
@pytest.mark.parametrize("expected", ["float16", "float32", "float64"])
def test_floats_become_the_networks_floats_as_numpy_rounds_them_where_they_fit(given: str, expected: str) -> None:
    plan, values = network(("x", expected, (3,))), np.array([0.1, -2, 6e4], given)
    array = prepare(plan, values, one_row=True)[0]
    assert array.dtype == expected
    np.testing.assert_array_equal(array, values.astype(expected))


def test_a_number_that_half_precision_would_make_infinite_is_refused() -> None:
    plan = network(("x", "float16", (2,)))
    assert refusal(plan, np.array([1, 7e4], np.float32)) == (
        "input 'x': 70000 is beyond what float16 holds, 6.55e04; expected x: float16[2]; scale it as in training"
    )


@pytest.mark.parametrize("dtype", ["int32", "uint8", "uint64", "int16"])
def test_integers_become_the_networks_integers_where_they_fit(dtype: str) -> None:
    array = prepare(network(("x", "int64", (3,))), np.array([0, 1, 100], dtype), one_row=True)[0]
    assert array.dtype == np.int64
    assert array.tolist() == [0, 1, 100]


@pytest.mark.parametrize(("expected", "value"), [("uint8", -1), ("uint8", 256), ("int32", 2**31), ("uint64", -1)])
def test_integers_that_do_not_fit_are_refused(expected: str, value: int) -> None:
    message = refusal(network(("x", expected, (1,))), np.array([value]))
    assert message == f"input 'x': got dtype int64, expected x: {expected}[1]; convert it: x.astype('{expected}')"


def test_an_array_of_the_right_dtype_is_handed_on_as_it_is() -> None:
    array = ones(1, 4)
    assert prepare(X, array, one_row=True)[0] is array


def test_a_mapping_is_put_into_the_networks_order() -> None:
    ids, mask = ones(1, 5, dtype="int64"), ones(1, 5, dtype="int64")
    found = prepare(network(*BERT), {"mask": mask, "ids": ids}, one_row=True)
    assert [array is given for array, given in zip(found, (ids, mask), strict=True)] == [True, True]


@pytest.mark.parametrize("inputs", [{"image": 1}, {}, {"x": 1, "y": 2}])
def test_a_mapping_with_other_names_is_refused(inputs: dict[str, Any]) -> None:
    assert refusal(X, inputs) == f"got inputs {sorted(inputs)}, expected ['x']"


def test_a_mapping_whose_names_are_no_strings_is_refused() -> None:
    assert refusal(X, {1: 2, "y": 3}).endswith("expected ['x']")


def test_another_number_of_inputs_is_refused_with_what_is_expected() -> None:
    assert refusal(network(*BERT), (ones(1, 5),)) == (
        "got 1 inputs, expected 2: ids: int64[batch, length], mask: int64[batch, length]"
    )


def test_one_array_for_two_inputs_is_refused() -> None:
    assert refusal(network(*BERT), ones(2, 5)).startswith("got 1 inputs, expected 2: ")


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: [x], lambda x: {"x": x}])
def test_one_input_may_come_bare_or_wrapped(wrap: Any) -> None:
    assert prepare(X, wrap(ones(1, 4)), one_row=True)[0].shape == (1, 4)


@pytest.mark.parametrize("rows", [1, 2])
def test_nested_lists_are_one_array_whatever_the_number_of_rows(rows: int) -> None:
    assert prepare(X, [[1.0, 2.0, 3.0, 4.0]] * rows, one_row=False)[0].shape == (rows, 4)


def test_a_ragged_list_is_refused() -> None:
    message = refusal(X, [[1.0, 2.0], [3.0]])
    assert message.startswith("input 'x': not an array (")
    assert message.endswith("; expected x: float32[batch, 4]")


def test_an_object_that_cannot_be_an_array_is_refused() -> None:
    class Tensor:
        def __array__(self, dtype: object = None, copy: object = None) -> Array:
            raise RuntimeError("call detach() first")

    assert refusal(X, Tensor()) == "input 'x': not an array (call detach() first); expected x: float32[batch, 4]"


def test_nothing_is_refused() -> None:
    assert refusal(X, None).startswith("input 'x': got shape [], expected x: float32[batch, 4]")


# What loses its meaning on the way


def test_a_masked_array_is_refused_where_something_is_masked_and_the_fix_is_right() -> None:
    x = np.ma.masked_array(ones(1, 4), [[False, True, False, True]])
    for given in (x, [x], (x,), {"x": x}, {"x": [x[0]]}):
        message = refusal(X, given)
        assert message == (
            "input 'x': got a masked array with 2 masked, behind which a network would see what stands there; expected "
            "x: float32[batch, 4]; fill it as in training: x.filled(0)"
        )
    assert applied(message, x=x).tolist() == [[1, 0, 1, 0]]
    assert prepare(X, np.ma.masked_array(ones(1, 4)), one_row=True)[0].tolist() == [[1, 1, 1, 1]]


def test_a_number_that_float32_would_make_infinite_is_refused_and_infinity_itself_is_not() -> None:
    assert refusal(X, np.array([[1, 2, -4e38, 1e300]])) == (
        "input 'x': -4e+38 is beyond what float32 holds, 3.4e38; expected x: float32[batch, 4]; scale it as in training"
    )
    kept = np.array([[np.inf, -np.inf, np.nan, 3e38]])
    np.testing.assert_array_equal(prepare(X, kept, one_row=True)[0], kept.astype(np.float32))


def applied(message: str, **given: Any) -> Array:
    """Returns what the expression at the end of a message gives, once it is an array that the network takes."""
    return np.asarray(eval(message.rpartition(": ")[2], {"np": np, **given}))  # noqa: S307 - our own message


@pytest.mark.parametrize(
    ("shape", "dims", "fix"),
    [
        ((8, 8), ("batch", 1, 8, 8), "image[None, None]"),
        ((450, 8, 8), ("batch", 1, 8, 8), "image[:, None]"),
        ((1, 8, 8), ("batch", 1, 8, 8), "image[None]"),
        ((3, 8, 8), ("batch", 3, 8, 8), "image[None]"),
        ((8, 8, 3), ("batch", 3, 8, 8), "image.transpose(2, 0, 1)[None]"),
        ((1, 8, 8, 3), ("batch", 3, 8, 8), "image.transpose(0, 3, 1, 2)"),
        ((5, 3, 8, 6), ("batch", 8, 6, 3), "image.transpose(0, 2, 3, 1)"),
        ((3, 8, 6), (1, 8, 6, 3), "image.transpose(1, 2, 0)[None]"),
        ((2, 16), ("batch", 1, 16), "image[:, None]"),
        ((6, 6), ("batch", "side", "side", 1), "image[None, :, :, None]"),
        ((7,), ("batch", None), "image[None]"),
        ((), ("batch",), "image[None]"),
    ],
)
def test_the_fix_of_a_shape_gives_one_that_is_taken(shape: Any, dims: Any, fix: str) -> None:
    torch = pytest.importorskip("torch")
    plan, image = network(("image", "float32", dims)), ones(*shape)
    for given in (image, torch.from_numpy(image), image.tolist()):
        message = refusal(plan, {"image": given}, one_row=False)
        assert message.startswith(f"input 'image': got shape {list(shape)}, expected image: float32[")
        assert message.endswith(fix if given is image else fix.replace("image", "np.asarray(image)"))
        assert prepare(plan, applied(message, image=given), one_row=False)[0].size == image.size


@pytest.mark.parametrize(
    ("shape", "dims"),
    [
        ((8, 9), ("batch", 1, 8, 8)),
        ((64,), ("batch", 1, 8, 8)),
        ((1, 9, 9, 3), ("batch", 3, 8, 8)),
        ((1, 1, 1, 8, 8), ("batch", 1, 8, 8)),
        ((3, 4), ("batch", "length", 4)),
        ((2, 3), ("batch", "side", "side", 1)),
    ],
)
def test_a_shape_that_nothing_mends_is_refused_without_a_fix(shape: Any, dims: Any) -> None:
    assert refusal(network(("image", "float32", dims)), ones(*shape)).endswith("]")


def test_a_fix_heeds_how_many_rows_the_other_inputs_have() -> None:
    plan = network(("x", "float32", ("batch", 4)), ("y", "float32", ("batch", 1, 4)))
    assert refusal(plan, (ones(4, 4), ones(4, 4)), one_row=False).endswith("; give it that shape: y[:, None]")
    assert refusal(plan, (ones(2, 4), ones(1, 4)), one_row=False).endswith("expected y: float32[batch, 1, 4]")


def test_an_input_whose_name_is_no_word_of_python_is_called_x() -> None:
    assert refusal(network(("input.1", "float32", ("batch", 4))), ones(4)).endswith("the batch dimension: x[None]")


def test_a_tensor_in_a_list_is_the_one_input_and_is_refused_as_such() -> None:
    torch = pytest.importorskip("torch")
    image = torch.ones(1, 4)
    for given in (image, [image], (image,)):
        assert prepare(X, given, one_row=True)[0].tolist() == [[1, 1, 1, 1]]
        assert refusal(network(("x", "float32", ("batch", 5))), given) == (
            "input 'x': got shape [1, 4], expected x: float32[batch, 5]"
        )
    assert refusal(X, [image, image]).startswith("got 2 inputs, expected 1: x")
    assert prepare(X, [[torch.tensor(1.0)] * 4], one_row=True)[0].tolist() == [[1, 1, 1, 1]]


def test_a_tensor_that_numpy_cannot_read_is_refused_with_what_makes_it_readable() -> None:
    torch = pytest.importorskip("torch")
    plain = torch.tensor([[1.0, 0.0, 2.0, 0.0]])
    tensors = {
        ".detach()": plain.clone().requires_grad_(),
        ".to_dense()": plain.to_sparse(),
        ".detach().to_dense()": plain.clone().requires_grad_().to_sparse(),
        ".float()": plain.bfloat16(),
        ".resolve_neg()": (-plain)._neg_view(),
    }
    for fix, tensor in tensors.items():
        message = refusal(X, [tensor])
        assert message.startswith("input 'x': not an array (")
        assert message.endswith(f"; expected x: float32[batch, 4]; make it one: x{fix}")
        assert prepare(X, applied(message, x=tensor), one_row=True)[0].tolist() == plain.tolist()
    assert refusal(X, torch.empty(1, 4, device="meta")).endswith("; expected x: float32[batch, 4]")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.array([[1 + 2j] * 4]), "take a part of its complex numbers: x.real.astype('float32')"),
        (np.array([["1"] * 4]), "convert it: x.astype('float32')"),
        (np.array([[1] * 4], object), "convert it: x.astype('float32')"),
        (np.array([[True] * 4]), "convert it: x.astype('float32')"),
    ],
)
def test_the_fix_of_a_dtype_gives_one_that_is_taken(value: Array, said: str) -> None:
    message = refusal(X, value)
    assert message == f"input 'x': got dtype {value.dtype}, expected x: float32[batch, 4]; {said}"
    assert prepare(X, applied(message, x=value), one_row=True)[0].shape == (1, 4)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([["a", "b", "c", "d"]], "got dtype <U1, expected x: float32[batch, 4]; it holds what is no number, such as "),
        ("image.npy", "got dtype <U9, expected x: float32[batch, 4]; it holds what is no number, such as "),
        (b"\x89PNG", "got dtype |S4, expected x: float32[batch, 4]; it holds what is no number, such as "),
        (np.array([["2026-01-01"] * 4], "M8[D]"), "it holds dates or times; make numbers of them as in training"),
        (np.array([[1, 2, None, 3]], object), "it holds NoneType, which is no number"),
        (np.zeros((1, 4), "i4,f4"), "it holds what is no number, such as "),
        ({1, 2, 3, 4}, "got shape [], expected x: float32[batch, 4]; a set is no array"),
    ],
)
def test_what_holds_no_numbers_is_refused_in_one_line(value: Any, said: str) -> None:
    message = refusal(X, value)
    assert message.startswith("input 'x': got ")
    assert said in message
    assert "\n" not in message


# Pixels


@pytest.mark.parametrize(("layout", "axis"), [("NCHW", 1), ("NHWC", 3)])
def test_pixels_are_scaled_then_normalised_per_channel(layout: Any, axis: int) -> None:
    preprocess = Preprocess(layout=layout, resize=(2, 2), scale=1 / 255, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = np.arange(36, dtype=np.uint8).reshape(1, 3, 3, 4)[:, :, :, :3] if layout == "NHWC" else (
        np.arange(36, dtype=np.uint8).reshape(1, 3, 3, 4)
    )  # fmt: skip
    found = normalize(pixels, preprocess)
    assert found.dtype == np.float32
    for channel, (mean, std) in enumerate(zip(preprocess.mean, preprocess.std, strict=True)):
        expected = (pixels.take(channel, axis).astype(np.float64) / 255 - mean) / std
        np.testing.assert_allclose(found.take(channel, axis), expected, rtol=1e-5)


def test_pixels_are_taken_where_the_bundle_says_how_to_scale_them() -> None:
    plan = network(*IMAGE, image=Preprocess(layout="NCHW", resize=(2, 2)))
    found = prepare(plan, np.full((1, 3, 2, 2), 255, np.uint8), one_row=True)[0]
    np.testing.assert_allclose(found, 1.0, rtol=1e-6)
    assert found.dtype == np.float32


def test_floats_are_taken_as_they_are_where_the_bundle_says_how_to_scale_pixels() -> None:
    plan = network(*IMAGE, image=Preprocess(layout="NCHW", resize=(2, 2)))
    array = ones(1, 3, 2, 2)
    assert prepare(plan, array, one_row=True)[0] is array


def test_pixels_of_another_shape_are_refused_before_they_are_scaled() -> None:
    plan = network(*IMAGE, image=Preprocess(layout="NCHW", resize=(2, 2)))
    assert refusal(plan, np.zeros((1, 1, 2, 2), np.uint8)) == (
        "input 'image': got shape [1, 1, 2, 2], expected image: float32[batch, 3, 2, 2]"
    )


def test_a_network_of_uint8_takes_pixels_as_they_are() -> None:
    pixels = np.zeros((1, 3, 2, 2), np.uint8)
    assert prepare(network(("image", "uint8", ("batch", 3, 2, 2))), pixels, one_row=True)[0] is pixels


# Rows


def test_rows_are_split_along_the_batch_of_every_input() -> None:
    plan = network(*BERT)
    ids, mask = (np.arange(6).reshape(3, 2) + offset for offset in (0, 100))
    rows = split_rows(plan, prepare(plan, (ids, mask), one_row=False))
    assert [[array.tolist() for array in row] for row in rows] == [
        [[[0, 1]], [[100, 101]]],
        [[[2, 3]], [[102, 103]]],
        [[[4, 5]], [[104, 105]]],
    ]


def test_an_input_without_a_batch_goes_to_every_row() -> None:
    plan = network(("x", "float32", ("batch", 4)), ("scale", "float32", ()))
    rows = split_rows(plan, prepare(plan, (ones(2, 4), np.float32(3)), one_row=False))
    assert [float(scale) for _, scale in rows] == [3.0, 3.0]


@pytest.mark.parametrize("rows", [1, 2, 5, 9])
def test_an_input_whose_first_dimension_is_one_goes_to_every_row(rows: int) -> None:
    plan = network(("x", "float32", ("batch", 4)), ("state", "float32", (1, 2)))
    split = split_rows(plan, prepare(plan, (ones(rows, 4), ones(1, 2)), one_row=False))
    assert [state.shape for _, state in split] == [(1, 2)] * rows


@pytest.mark.parametrize("rows", [1, 3])
def test_a_network_of_batch_one_takes_any_number_of_rows_one_by_one(rows: int) -> None:
    plan = network(("x", "float32", (1, 4)), ("y", "float32", (1,)), ("scale", "float32", (2,)))
    x, y = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4), np.arange(rows, dtype=np.float32)
    split = split_rows(plan, prepare(plan, (x, y, ones(2)), one_row=False))
    assert [[array.tolist() for array in row] for row in split] == [
        [[x[k].tolist()], [float(k)], [1.0, 1.0]] for k in range(rows)
    ]


def test_a_network_of_batch_one_is_refused_rows_of_two_numbers() -> None:
    plan = network(("x", "float32", (1, 4)), ("y", "float32", (1,)))
    assert refusal(plan, (ones(3, 4), ones(2)), one_row=False) == (
        "input 'y': got shape [2], expected y: float32[1] (batch is 3 elsewhere)"
    )


def test_a_network_of_batch_one_runs_one_row() -> None:
    plan = network(("x", "float32", (1, 4)))
    assert refusal(plan, ones(3, 4)) == "input 'x': got shape [3, 4], expected x: float32[1, 4]"


def test_a_network_without_a_batch_dimension_has_no_rows_to_split() -> None:
    plan = network(("x", "float32", (4,)))
    with pytest.raises(InputError) as caught:
        split_rows(plan, prepare(plan, ones(4), one_row=False))
    assert str(caught.value) == "no input has a batch dimension: x: float32[4]; use `run`"
