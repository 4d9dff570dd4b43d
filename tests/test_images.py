"""Pictures as inputs."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eetoolkit.reading.images import ImageOptions, choose_preprocess, read_image
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Dim, DType, Preprocess, TensorSpec

RGB = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8)
NOTHING = ImageOptions()


def spec(*shape: Dim, dtype: DType = "float32") -> TensorSpec:
    return TensorSpec(name="image", dtype=dtype, shape=shape)


def encode(array: np.ndarray, kind: str = "png", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def test_nchw_and_nhwc_hold_the_same_pixels_in_their_order() -> None:
    first = read_image(encode(RGB), "a", spec("batch", 3, 2, 2), Preprocess(layout="NCHW", resize=(2, 2)))
    last = read_image(encode(RGB), "a", spec("batch", 2, 2, 3), Preprocess(layout="NHWC", resize=(2, 2)))
    np.testing.assert_allclose(last, RGB[None] / np.float32(255))
    np.testing.assert_array_equal(first, last.transpose(0, 3, 1, 2))
    assert first.dtype == np.float32


def test_normalization_is_scale_then_mean_then_std_per_channel() -> None:
    preprocess = Preprocess(layout="NCHW", resize=(2, 2), scale=0.5, mean=(1, 2, 3), std=(1, 2, 4))
    found = read_image(encode(RGB), "a", spec("batch", 3, 2, 2), preprocess)
    np.testing.assert_allclose(found[0, :, 1, 1], [(5 - 1) / 1, (10 - 2) / 2, (15 - 3) / 4])


def test_size_is_height_by_width_and_resizing_averages() -> None:
    stripes = np.tile(np.array([0, 200], np.uint8), (4, 4))
    found = read_image(encode(stripes), "a", spec("batch", 1, 2, 4), Preprocess(layout="NCHW", resize=(2, 4), scale=1))
    assert found.shape == (1, 1, 2, 4)
    assert np.abs(found[..., 1:-1] - 100).max() < 30, "a downscale without antialiasing would give 0 or 200"


def test_channels_are_converted_to_what_the_input_has() -> None:
    grey = read_image(encode(RGB), "a", spec("batch", 1, 2, 2), Preprocess(layout="NCHW", resize=(2, 2), scale=1))
    # ITU-R 601-2 luma, as Pillow documents for its conversion to "L"
    np.testing.assert_allclose(grey[0, 0], RGB @ np.array([0.299, 0.587, 0.114]), atol=1)
    colour = read_image(encode(RGB[..., 0]), "a", spec("batch", 3, 2, 2), Preprocess(layout="NCHW", resize=(2, 2)))
    np.testing.assert_array_equal(colour[0, 0], colour[0, 2])


def test_uint8_inputs_get_plain_pixels_and_half_ones_half_floats() -> None:
    preprocess = Preprocess(layout="NHWC", resize=(2, 2), mean=(9.0,))
    found = read_image(encode(RGB), "a", spec("batch", 2, 2, 3, dtype="uint8"), preprocess)
    np.testing.assert_array_equal(found, RGB[None])
    assert found.dtype == np.uint8
    assert read_image(encode(RGB), "a", spec(1, 2, 2, 3, dtype="float16"), preprocess).dtype == np.float16
    with pytest.raises(InputError, match=r"^input 'image' is int64, a picture gives float32, float16, float64, uint8"):
        read_image(encode(RGB), "a", spec("batch", 2, 2, 3, dtype="int64"), preprocess)


def test_a_photo_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # EXIF 2.3, Orientation: the camera was turned, so the picture must be turned 90 degrees clockwise
    wide = np.array([[10, 20, 30, 40]], np.uint8)
    found = read_image(
        encode(wide, exif=exif), "a", spec("batch", 1, 4, 1), Preprocess(layout="NCHW", resize=(4, 1), scale=1)
    )
    np.testing.assert_array_equal(found[0, 0, :, 0], [10, 20, 30, 40])


def test_pictures_that_cannot_be_read_are_named() -> None:
    preprocess, one = Preprocess(layout="NCHW", resize=(2, 2)), spec("batch", 1, 2, 2)
    with pytest.raises(InputError, match=r"^x\.png: a damaged picture \("):
        read_image(encode(np.zeros((64, 64), np.uint8))[:60], "x.png", one, preprocess)
    with pytest.raises(InputError, match=r"^x\.png: not a PNG or JPEG that Pillow can read$"):
        read_image(b"\x89PNG and no more", "x.png", one, preprocess)
    with pytest.raises(InputError, match=r"^x\.png: its pixels are 'I;16', expected 8 bits per channel; convert it$"):
        read_image(encode(np.zeros((2, 2), np.uint16)), "x.png", one, preprocess)


def test_the_bundles_way_is_taken_with_what_the_caller_says_instead() -> None:
    own = Preprocess(layout="NCHW", resize=(2, 2), scale=2, mean=(3,))
    found = choose_preprocess(spec("batch", 1, 2, 2), own, ImageOptions(scale=5, std=(7,)))
    assert found == Preprocess(layout="NCHW", resize=(2, 2), scale=5, mean=(3,), std=(7,))
    assert choose_preprocess(spec("batch", 1, 2, 2), own, NOTHING) is not None


def test_without_the_bundles_way_the_shape_tells_layout_and_size() -> None:
    assert choose_preprocess(spec("batch", 3, 20, 30), None, ImageOptions(scale=5)) == Preprocess(
        layout="NCHW", resize=(20, 30), scale=5
    )
    assert choose_preprocess(spec("batch", 20, 30, 1), None, ImageOptions(mean=(0.5,))) == Preprocess(
        layout="NHWC", resize=(20, 30), mean=(0.5,)
    )
    assert choose_preprocess(spec("batch", 3, "h", "w"), None, ImageOptions(resize=(5, 6))).resize == (5, 6)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (
            ("batch", 3, 8, 8),
            NOTHING,
            "the bundle does not say how a picture becomes the input 'image': export it with",
        ),
        (
            ("batch", 3, "h", "w"),
            ImageOptions(scale=1),
            "takes any size, ['batch', 3, 'h', 'w']: say which with --size",
        ),
        (("batch", 3, 8, 3), ImageOptions(scale=1), "say with --layout NCHW or NHWC what it means"),
        (("batch", 64), ImageOptions(scale=1), "has shape ['batch', 64], a picture needs four dimensions; pass .npy"),
        (("batch", 2, 8, 8), ImageOptions(layout="NCHW"), "has 2 channels as NCHW, a picture has 1, 3 or 4; pass .npy"),
        (("batch", 3, 8, 8), ImageOptions(mean=(1, 2)), "--mean has 2 values, the input 'image' has 3 channels"),
        (("batch", 3, 8, 8), ImageOptions(std=(1, 0, 1)), "--std is 0; it divides"),
    ],
)
def test_what_is_not_known_is_asked_for(shape: tuple[Dim, ...], options: ImageOptions, message: str) -> None:
    with pytest.raises(InputError) as caught:
        choose_preprocess(spec(*shape), None, options)
    assert message in str(caught.value)
