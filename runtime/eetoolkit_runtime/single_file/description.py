"""`NAME.json`: what a program must know of `NAME.onnx`, a plan as one ONNX file, to use it from any language.

`docs/single-file.md` explains each key to people. No file is named in it, so that all of them can be renamed together.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from eetoolkit_runtime.bundle.integrity import digest, open_regular, read_regular
from eetoolkit_runtime.errors import BundleError, IntegrityError, ManifestError
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.plan.manifest import Head, check_head, schema_text
from eetoolkit_runtime.plan.types import (
    MANIFEST_LIMIT_BYTES,
    Axis,
    Count,
    Dim,
    DType,
    Fallback,
    File,
    Limit,
    Positive,
    Scale,
    Size,
)

FORMAT: Literal["eetoolkit-single-file"] = "eetoolkit-single-file"
VERSION = 1
_AGAIN = "copy it again, or pack the bundle again"


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The house rules of every value in a description."""


class Picture(_Struct, frozen=True, kw_only=True):
    """How a picture becomes an input: resize to (height, width), then `(pixel * scale - mean) / std` per channel."""

    layout: Literal["NCHW", "NHWC"]
    resize: tuple[Positive, Positive]
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Input(_Struct, frozen=True, kw_only=True):
    """An input of the graph, for one row; `title` is what the network called it where that is another name."""

    name: str
    title: str | None = None
    dtype: DType
    shape: tuple[Dim, ...]
    preprocess: Picture | None = None


class Output(_Struct, frozen=True, kw_only=True):
    """An output of the graph; `meaning` is for people."""

    name: str
    title: str | None = None
    dtype: DType
    shape: tuple[Dim, ...]
    meaning: str


class ThresholdPlace(_Struct, frozen=True, kw_only=True):
    """A threshold, and where it can be changed.

    Attributes:
        value: What the confidence must reach, float32.
        initializer: The scalar initializer of the graph that holds it.
        offset: At which byte of the file its four bytes begin, little-endian.
    """

    value: float
    initializer: str
    offset: Count


class Scores(_Struct, frozen=True, kw_only=True):
    """Which output holds the class scores of an exit's answer, and how they are read."""

    output: str
    scale: Scale
    axis: Axis


class NumberedExit(_Struct, frozen=True, kw_only=True):
    """An exit; its number is its place in the list.

    Attributes:
        name: What the plan calls it.
        title: What the network called it where that is another name.
        scores: Which output holds the class scores of its answer.
        threshold: When it fires; None where that cannot be changed.
        disabled: It never answers.
    """

    name: str
    title: str | None = None
    scores: Scores | None = None
    threshold: ThresholdPlace | None = None
    disabled: bool = False


class Tensor(_Struct, frozen=True, kw_only=True):
    """The numbers of a golden sample's tensor in row-major order; its dtype is the input's or output's.

    Attributes:
        shape: Its sizes.
        data: Its numbers.
        tensor: Where `data` is not there: its name in the file of tensors.
    """

    shape: tuple[Size, ...]
    data: tuple[float | int | bool, ...] | None = None
    tensor: str | None = None


class GoldenAnswer(_Struct, frozen=True, kw_only=True):
    """What one exit gives: its number, its confidence and all outputs but `exit` and `confidence`."""

    exit: Count
    confidence: float
    outputs: dict[str, Tensor]


class GoldenSample(_Struct, frozen=True, kw_only=True):
    """One row, and what the source framework gave.

    Attributes:
        inputs: By name.
        answers: What the exits on its way give, in order, where none before has fired.
        right: Which of them the file may give, by their places. There are several where a confidence is so near to what
            decides that rounding may turn it.
    """

    inputs: dict[str, Tensor]
    answers: tuple[GoldenAnswer, ...]
    right: Annotated[tuple[Count, ...], msgspec.Meta(min_length=1)]


class GoldenSamples(_Struct, frozen=True, kw_only=True):
    """Samples by which a machine can be checked.

    Attributes:
        tolerance: By how much a number may differ: of the largest magnitude in its tensor, at least of 1.
        samples: The rows.
        tensors: Digest and size of `NAME.golden.safetensors`, where the tensors are not in the description itself.
    """

    tolerance: Annotated[float, msgspec.Meta(gt=0)]
    samples: Annotated[tuple[GoldenSample, ...], msgspec.Meta(min_length=1)]
    tensors: File | None = None


class Description(_Struct, frozen=True, kw_only=True):
    """A whole `NAME.json`.

    Attributes:
        format: What it is.
        version: Of the format.
        name: The bundle's.
        model: Digest and size of `NAME.onnx`.
        onnxruntime: The oldest release that reads it.
        ir_version: The version of ONNX's file format.
        opsets: The operator set of each domain.
        inputs: What a call takes.
        limits: The sizes that the graph takes of a dimension that is not fixed.
        outputs: What a call gives.
        exits: By number.
        fallback: Which exit answers where none fired: the last, or the most confident one.
        labels: The classes' names.
        golden: Samples to check it by.
    """

    format: Literal["eetoolkit-single-file"]
    version: int
    name: str
    model: File
    onnxruntime: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,4}[.][0-9]{1,4}$")]
    ir_version: Count
    opsets: dict[str, Count]
    inputs: tuple[Input, ...]
    limits: dict[str, Limit] = {}
    outputs: tuple[Output, ...]
    exits: tuple[NumberedExit, ...]
    fallback: Fallback
    labels: tuple[str, ...] | None = None
    golden: GoldenSamples | None = None


def description_path(model: Path) -> Path:
    """Returns where the description of an ONNX file lies: NAME.json beside NAME.onnx."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.json")


def golden_path(model: Path) -> Path:
    """Returns where the tensors of an ONNX file's golden samples lie that are not in its description."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.golden.safetensors")


def is_description(path: Path) -> bool:
    """Whether a file is the description of a plan that is one ONNX file."""
    try:
        return msgspec.json.decode(read_regular(path, MANIFEST_LIMIT_BYTES), type=Head).format == FORMAT
    except (OSError, IntegrityError, msgspec.MsgspecError, ValueError, RecursionError):
        return False


def decode(text: bytes, what: str) -> Description:
    """Returns the description in `text`; `what` names it in errors.

    Raises:
        ManifestError: It is none, or of another version.
    """
    try:
        check_head(msgspec.json.decode(text, type=Head), FORMAT, VERSION, what, "pack the bundle again")
        return msgspec.json.decode(text, type=Description)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ManifestError(f"{what}: {error}; {_AGAIN}") from error


def read_description(model: Path) -> Description:
    """Returns the description that lies beside an ONNX file, once the file was found to be the one that it describes.

    Raises:
        ManifestError: It is none.
        IntegrityError: It is missing, or describes another file.
    """
    path = description_path(model)
    try:
        text = read_regular(path, MANIFEST_LIMIT_BYTES)
    except OSError as error:
        raise _unreadable(path, error, f"which describes {shown(model)}") from error
    description = decode(text, str(shown(path)))
    check_described(model, description.model, path)
    return description


def check_described(path: Path, expected: File, description: Path) -> None:
    """Checks that a file is the one that a description names.

    Raises:
        IntegrityError: It is missing or another one.
    """
    try:
        open_regular(path).close()
        found = digest(path)
    except OSError as error:
        raise _unreadable(path, error, f"which {shown(description)} describes") from error
    if found != expected:
        raise IntegrityError(
            f"{shown(path)} is not the file that {shown(description)} describes: {found.size} bytes of sha256 "
            f"{found.sha256[:12]}…, expected {expected.size} of {expected.sha256[:12]}…; copy both again, or pack the "
            "bundle again"
        )


def json_schema() -> bytes:
    """Returns the JSON Schema of a description, for other languages."""
    return schema_text(msgspec.json.schema(Description))


def _unreadable(path: Path, error: OSError, what: str) -> BundleError:
    """Returns what is raised for a file that cannot be read; `what` says what it is."""
    if isinstance(error, FileNotFoundError):
        return IntegrityError(f"{shown(path)} is missing, {what}; {_AGAIN}")
    return IntegrityError(f"cannot read {shown(path)}: {error.strerror or error}")
