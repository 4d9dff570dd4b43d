"""Pictures as a network takes them: decoded, resized and normalized as the bundle's `preprocess` says."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit.extras import install
from eetoolkit_runtime.errors import InputError, first_line
from eetoolkit_runtime.plan.types import Preprocess, TensorSpec
from eetoolkit_runtime.running.inputs import normalize

if TYPE_CHECKING:
    from PIL import Image

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's mode for a number of channels
_DTYPES = ("float32", "float16", "float64", "uint8")
_EIGHT_BIT_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}


@dataclass(frozen=True)
class ImageOptions:
    """What the caller says instead of the bundle; None leaves it to the bundle. See `Preprocess` for the meanings."""

    layout: Literal["NCHW", "NHWC"] | None = None
    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @property
    def given(self) -> dict[str, Any]:
        """What is said, by the names of `Preprocess`."""
        options = {
            "layout": self.layout, "resize": self.resize, "scale": self.scale, "mean": self.mean, "std": self.std
        }  # fmt: skip
        return {name: value for name, value in options.items() if value is not None}


def choose_preprocess(spec: TensorSpec, own: Preprocess | None, options: ImageOptions) -> Preprocess:
    """Returns how pictures become the input `spec`: the bundle's `own` way, with what the caller says instead.

    Where the bundle has none, the caller must say something; what follows from the input's shape need not be said.

    Raises:
        InputError: The input is no picture, or too little is known.
    """
    if len(spec.shape) != 4:
        raise InputError(
            f"input {spec.name!r} has shape {list(spec.shape)}, a picture needs four dimensions; pass .npy"
        )
    if own is None:
        if not options.given:
            raise InputError(
                f"the bundle does not say how a picture becomes the input {spec.name!r}: export it with preprocess, or "
                "say it now, e.g. --size 224x224 --scale 1/255 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225"
            )
        layout = options.layout or _layout(spec)
        height, width = (spec.shape[axis] for axis in _spatial_axes(layout))
        if options.resize is None and not (isinstance(height, int) and isinstance(width, int)):
            raise InputError(f"input {spec.name!r} takes any size, {list(spec.shape)}: say which with --size HxW")
        own = Preprocess(layout=layout, resize=options.resize or (height, width))  # type: ignore[arg-type]  # two ints: checked just above
    chosen = msgspec.structs.replace(own, **options.given)
    channels = _channels(spec, chosen.layout)
    for option, values in (("--mean", chosen.mean), ("--std", chosen.std)):
        if len(values) not in (1, channels):
            raise InputError(f"{option} has {len(values)} values, the input {spec.name!r} has {channels} channels")
    if 0 in chosen.std:
        raise InputError("--std is 0; it divides")
    return chosen


def read_image(data: bytes, name: str, spec: TensorSpec, preprocess: Preprocess) -> npt.NDArray[Any]:
    """Returns the picture in `data` (PNG or JPEG) as one row of the input `spec`, of its dtype.

    It is turned upright as its EXIF orientation says, converted to as many channels as the input has, and resized to
    the full size, bilinear with antialiasing, without keeping its proportions. An input of uint8 gets plain pixels.

    Raises:
        InputError: Pillow is missing, or this is not a picture of 8 bits per channel.
    """
    if spec.dtype not in _DTYPES:
        raise InputError(f"input {spec.name!r} is {spec.dtype}, a picture gives {', '.join(_DTYPES)}; pass .npy")
    pixels = np.asarray(_decode(data, name, _channels(spec, preprocess.layout), preprocess.resize))
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    pixels = pixels[None] if preprocess.layout == "NHWC" else pixels.transpose(2, 0, 1)[None]
    if spec.dtype == "uint8":
        return np.ascontiguousarray(pixels)
    return normalize(pixels, preprocess).astype(spec.dtype)


def _decode(data: bytes, name: str, channels: int, size: tuple[int, int]) -> Image.Image:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ModuleNotFoundError as error:
        raise InputError(f"{name}: reading pictures needs Pillow: {install('images')}") from error
    height, width = size
    try:
        with warnings.catch_warnings():  # a small file may say that it has any number of pixels
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            opened = Image.open(BytesIO(data), formats=("PNG", "JPEG"))
        with opened as picture:
            if picture.mode not in _EIGHT_BIT_MODES:
                raise InputError(f"{name}: its pixels are {picture.mode!r}, expected 8 bits per channel; convert it")
            upright = ImageOps.exif_transpose(picture)
            return upright.convert(_MODES[channels]).resize((width, height), Image.Resampling.BILINEAR)
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not a PNG or JPEG that Pillow can read") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: over {Image.MAX_IMAGE_PIXELS} pixels; make it smaller first") from error
    except (OSError, ValueError, SyntaxError) as error:  # what Pillow raises on damage
        raise InputError(f"{name}: a damaged picture ({first_line(error)})") from error


def _layout(spec: TensorSpec) -> Literal["NCHW", "NHWC"]:
    first, last = spec.shape[1] in _MODES, spec.shape[3] in _MODES
    if first == last:
        raise InputError(
            f"input {spec.name!r} has shape {list(spec.shape)}: say with --layout NCHW or NHWC what it means"
        )
    return "NCHW" if first else "NHWC"


def _spatial_axes(layout: str) -> tuple[int, int]:
    return (2, 3) if layout == "NCHW" else (1, 2)


def _channels(spec: TensorSpec, layout: str) -> int:
    channels = spec.shape[1 if layout == "NCHW" else 3]
    if not isinstance(channels, int) or channels not in _MODES:
        raise InputError(f"input {spec.name!r} has {channels} channels as {layout}, a picture has 1, 3 or 4; pass .npy")
    return channels
