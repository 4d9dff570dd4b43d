"""Pictures of rows: what a network's input shows, as PNG data for a page."""

from __future__ import annotations

import base64
import io
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.plan.types import Manifest, Preprocess, TensorSpec
from eetoolkit_runtime.running.inputs import prepare, split_rows

_CHANNELS = (1, 3, 4)
_MOST_PIXELS = 160  # of a side: larger ones are made smaller, so that the page stays so
_LEAST_PIXELS = 4


def pictures(plan: Manifest, inputs: Any, rows: Sequence[int]) -> dict[int, str]:
    """Returns a PNG for each of some rows, as a data URI; none where inputs are no pictures or cannot be had again.

    What `preprocess` did to pixels is taken back, and grey values stretched over what all of the rows span.

    Args:
        plan: Says how pixels became inputs.
        inputs: As `tune` got them.
        rows: Their numbers in the data.

    Raises:
        InputError: Inputs that the bundle does not take, or that have no such row.
    """
    layout = _layout(plan)
    arrays = _rows_of(plan, inputs, rows) if layout is not None else {}
    if not arrays or layout is None:
        return {}
    own = plan.preprocess.get(plan.inputs[0].name)
    pixels = {row: _pixels(array, layout, own) for row, array in arrays.items()}
    finite = np.concatenate([each[np.isfinite(each)] for each in pixels.values()])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    scale = 255 / (high - low) if high > low else 0.0
    return {row: _png(np.nan_to_num((each - low) * scale).clip(0, 255)) for row, each in pixels.items()}


def _layout(plan: Manifest) -> Literal["NCHW", "NHWC"] | None:
    """Returns where the one input has its channels; None where it is no picture."""
    if len(plan.inputs) != 1 or len(plan.inputs[0].shape) != 4:
        return None
    spec = plan.inputs[0]
    own = plan.preprocess.get(spec.name)
    if own is not None:
        return own.layout
    first, last = spec.shape[1] in _CHANNELS, spec.shape[3] in _CHANNELS
    if first == last or not _is_wide(spec, "NCHW" if first else "NHWC"):
        return None
    return "NCHW" if first else "NHWC"


def _is_wide(spec: TensorSpec, layout: str) -> bool:
    sides = spec.shape[2:] if layout == "NCHW" else spec.shape[1:3]
    return all(not isinstance(side, int) or side >= _LEAST_PIXELS for side in sides)


def _rows_of(plan: Manifest, inputs: Any, rows: Sequence[int]) -> Mapping[int, Array]:
    """Returns the input of each row, (1, ...)."""
    from eetoolkit.reading.inputfiles import read_files
    from eetoolkit.reading.labelled import ClassFolders

    if isinstance(inputs, ClassFolders):
        paths = {row: inputs.pictures[row][0] for row in rows}
        files = {
            row: next(read_files(inputs.plan, [path], inputs.options, sys.stdin.buffer)) for row, path in paths.items()
        }
        return {row: file.rows[0][0] for row, file in files.items()}
    if not isinstance(inputs, np.ndarray | Mapping | tuple | list) or not rows:
        return {}
    if isinstance(inputs, list) or (isinstance(inputs, tuple) and len(inputs) != len(plan.inputs)):
        return {}
    split = split_rows(plan, prepare(plan, inputs, one_row=False))
    beyond = [row for row in rows if row >= len(split)]
    if beyond:
        raise InputError(f"the report speaks of row {beyond[0]}, inputs have {len(split)}: pass those it was made with")
    return {row: split[row][0] for row in rows}


def _pixels(array: Array, layout: str, own: Preprocess | None) -> Array:
    """Returns (height, width, channels) of (1, ...), as pixels were before `own` where it is known."""
    shaped = array[0].transpose(1, 2, 0) if layout == "NCHW" else array[0]
    image: Array = shaped.astype(np.float64)
    if own is None or array.dtype == np.uint8:
        return image
    return np.asarray((image * np.array(own.std) + np.array(own.mean)) / own.scale)


def _png(pixels: Array) -> str:
    from PIL import Image

    image = Image.fromarray(pixels[..., 0].astype(np.uint8) if pixels.shape[2] == 1 else pixels.astype(np.uint8))
    image.thumbnail((_MOST_PIXELS, _MOST_PIXELS))
    file = io.BytesIO()
    image.save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
