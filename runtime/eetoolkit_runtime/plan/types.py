"""The plan: the types of `manifest.json`.

Every value is frozen. `docs/bundle-format.md` specifies each key; `validate` proves what types cannot say. Annotations
are no texts here: msgspec would compile each of them when the first manifest is decoded, in nearly two milliseconds.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

FORMAT: Literal["eetoolkit-bundle"] = "eetoolkit-bundle"
VERSION = 2
MANIFEST = "manifest.json"
JOURNAL = ".writing.json"
MANIFEST_LIMIT_BYTES = 8 << 20
"""What a small file may hold without filling a device's memory: a plan of hundreds of segments takes some 100 KB."""

Dim = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)] | str | None
"""A number; a name or expression of input symbols, fixed within a call; or None: it depends on the data."""

DType = Literal[
    "float32", "float64", "float16",
    "int64", "int32", "int16", "int8",
    "uint64", "uint32", "uint16", "uint8",
    "bool",
]  # fmt: skip

CriterionKind = Literal[
    "max_prob", "entropy", "margin",
    "patience", "vote", "mean_ensemble", "geometric_ensemble",
    "learned", "all_of", "any_of", "at_least", "custom",
]  # fmt: skip
Number = float | str | None
"""A number as it is handed to `export`; in a bundle, the name of the constant that holds it."""
Numbers = tuple[float, ...] | str | None
Threshold = float | Literal["never", "always"]
"""When an exit fires: where its confidence reaches a number (NaN never does); `never`, and it stands in for none;
`always`, which is the exit that ends the plan."""
Scale = Literal["logits", "log_probs", "probs"]
Fallback = Literal["last", "most_confident"]
Method = Literal["static", "dynamic", "blockwise", "float16"]
"""How a segment was quantised; the first that a part of it was."""
Activations = Literal["uint8", "int8"]
MOST_EXACT = (1 << 53) - 1
"""The largest integer that every reader of JSON tells from its neighbours: many keep numbers in double precision."""
Count = Annotated[int, msgspec.Meta(ge=0, le=MOST_EXACT)]
Axis = Annotated[int, msgspec.Meta(ge=-32, lt=32)]
Size = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
Positive = Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
Visits = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Shape = Annotated[tuple[Dim, ...], msgspec.Meta(max_length=32)]
"""As many dimensions as every numpy has arrays of."""
LatencyMs = Annotated[float, msgspec.Meta(gt=0)]

if TYPE_CHECKING:
    Function = str | Callable[..., Any]  # what a user hands over; JSON holds its name, and the device knows no more
else:
    Function = str


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The house rules of every value in a manifest."""


class TensorSpec(_Struct, frozen=True, kw_only=True):
    """Name, dtype and shape of an input or output of the network."""

    name: str
    dtype: DType
    shape: Shape


class Limit(_Struct, frozen=True, kw_only=True):
    """The sizes that the graphs take of a dimension of the inputs, both ends included; None: no end."""

    min: Size = 0
    max: Positive | None = None


class Slot(_Struct, frozen=True, kw_only=True):
    """Dtype and shape of a named pointer to a tensor."""

    dtype: DType
    shape: Shape


class Constant(_Struct, frozen=True, kw_only=True):
    """A tensor that lives in the manifest, so that tuning edits the manifest alone.

    `data` is in row-major order; integers beyond `MOST_EXACT` are strings of their digits.
    """

    dtype: DType
    shape: Annotated[tuple[Size, ...], msgspec.Meta(max_length=32)]
    data: tuple[float | int | bool | str, ...]


def spell(value: TensorSpec | Slot | Constant) -> str:
    """Returns dtype and shape for people."""
    return f"{value.dtype}[{', '.join('?' if dim is None else str(dim) for dim in value.shape)}]"


class Source(_Struct, frozen=True, kw_only=True):
    """Where a slot takes its tensor from: a graph output of this segment, another slot, or a constant."""

    output: str | None = None
    slot: str | None = None
    constant: str | None = None

    def __post_init__(self) -> None:
        """Refuse anything but exactly one source."""
        if sum(source is not None for source in (self.output, self.slot, self.constant)) != 1:
            raise ValueError("a source names exactly one of `output`, `slot`, `constant`")


class Criterion(_Struct, frozen=True, kw_only=True):
    """How an exit's confidence is computed from its outputs (formulas: `eetoolkit_exporters.criteria.reference`).

    What tuning changes (`temperature`, `weights`, `bias`, `tau`, a member's `threshold`) is a number when it is handed
    to `export`, and the name of a constant of the manifest in a bundle.

    Attributes:
        kind: Which one.
        output: Which output of the exit is read; None: its only one, or the one called `logits` (`confidence` for
            `learned`).
        scale: What the class scores hold; for `learned`, `custom` and combinations, those that later exits may read.
        axis: Their class axis.
        quantile: For dense outputs: the quantile of the confidences over all positions; None: their mean.
        temperature: What divides the logits before softmax; 1 where nothing is said.
        tau: `patience` in regression: answers closer than this are equal; None: classes are compared.
        weights: `geometric_ensemble`: one for every exit up to this one; equal and of sum 1 where nothing is said.
        bias: `geometric_ensemble`: one for every class; 0 where nothing is said.
        invert: `learned`: the output is low where the network is certain.
        n: `at_least`: how many members must fire.
        members: `all_of`, `any_of`, `at_least`: criteria with thresholds of their own.
        threshold: A member's: when it fires.
        function: `custom`: a torch function from the exit's outputs to one number a row; its name in a bundle.
    """

    kind: CriterionKind
    output: str | None = None
    scale: Scale = "logits"
    axis: Axis = 1
    quantile: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    temperature: Number = None
    tau: Number = None
    weights: Numbers = None
    bias: Numbers = None
    invert: bool = False
    n: Positive | None = None
    members: tuple["Criterion", ...] = ()
    threshold: Number = None
    function: Function | None = None

    def named_constants(self) -> tuple[tuple[str, str], ...]:
        """Returns (what for, name) of the constants that hold its numbers, its members' included."""
        own = ("temperature", "tau", "weights", "bias", "threshold")
        names = [(key, value) for key in own if isinstance(value := getattr(self, key), str)]
        return (*names, *(name for member in self.members for name in member.named_constants()))


class ClassScores(_Struct, frozen=True, kw_only=True):
    """Which of an exit's outputs holds the class scores of its answer, and how they are read."""

    output: str
    scale: Scale = "logits"
    axis: Axis = 1


class Exit(_Struct, frozen=True, kw_only=True):
    """A place where the network may answer; `scores` is None where no output says a class."""

    name: str
    outputs: dict[str, str]
    scores: ClassScores | None = None
    criterion: Criterion
    confidence: str
    threshold: Threshold

    @property
    def ends(self) -> bool:
        """Whether it ends the plan and accepts everything."""
        return self.threshold == "always"

    @property
    def enabled(self) -> bool:
        """Whether it may answer."""
        return self.threshold != "never"


class Goto(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="goto"):
    """Always the same segment next."""

    segment: str


class Gate(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="gate"):
    """A boolean slot decides which segment is next."""

    on: str
    then: str
    otherwise: str = msgspec.field(name="else")


class Switch(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="switch"):
    """An integer slot decides which segment is next; a value outside the cases is a `RunError`."""

    on: str
    cases: tuple[str, ...]


class Stop(_Struct, frozen=True, kw_only=True, tag_field="kind", tag="stop"):
    """The end of the plan."""


Next = Goto | Gate | Switch | Stop


class Work(_Struct, frozen=True, kw_only=True):
    """What a segment costs on paper; `multiply_adds` is for one row at the example's shapes, None where unknown."""

    nodes: Count
    parameters: Count
    multiply_adds: Count | None = None


class Segment(_Struct, frozen=True, kw_only=True):
    """One ONNX graph, or only moves where `model` is None; `weights` are the external data that the graph maps.

    `prepack` is whether a runner of one row should have them packed.
    """

    model: str | None = None
    weights: tuple[str, ...] = ()
    prepack: bool = True
    reads: dict[str, str] = {}
    writes: dict[str, Source] = {}
    exit: Exit | None = None
    next: Next
    max_visits: Visits | None = None
    work: Work | None = None


class File(_Struct, frozen=True, kw_only=True):
    """Digest and size of a file of the bundle."""

    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size: Count


class Golden(_Struct, frozen=True, kw_only=True):
    """The golden samples and the absolute tolerance at which a device must reproduce them."""

    file: str
    tolerance: Annotated[float, msgspec.Meta(gt=0)]


class SavedProfile(_Struct, frozen=True, kw_only=True):
    """What the bundle costs on its device: the profile's file, and what deadlines go by, so that none need read it.

    Attributes:
        file: The whole profile; None: only the latencies are known.
        expected_ms: How many milliseconds a segment takes (p90).
    """

    file: str | None = None
    expected_ms: dict[str, LatencyMs]


class Preprocess(_Struct, frozen=True, kw_only=True):
    """How an image becomes an input: resize to (height, width), then `(pixel * scale - mean) / std` per channel."""

    layout: Literal["NCHW", "NHWC"]
    resize: tuple[Positive, Positive]
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


class Guarantee(_Struct, frozen=True, kw_only=True):
    """What was promised of the tuned thresholds, on which grounds.

    Attributes:
        method: By what it was shown.
        loss: Of what the mean is promised.
        risk: At most this.
        delta: Except with this probability over the draw of the rows; None: in the mean over draws.
        rows: How many rows were drawn.
        found: The mean loss of these rows.
        bound: The least risk that could have been promised of this choice by the same rows.
        passed: Whether any early exit did; else the whole network answers.
        assumptions: Under which it holds.
    """

    method: str
    loss: str
    risk: float
    delta: float | None = None
    rows: Count
    found: float
    bound: float
    passed: bool
    assumptions: tuple[str, ...]


SHARE_OF = "share of "
"""What the figure of an exit's share is called in `Tuning.figures`, before the exit's name."""


class Tuning(_Struct, frozen=True, kw_only=True):
    """How the thresholds and temperatures came about, and what was there before.

    Attributes:
        goal: What they were chosen for.
        metric: What counted as good.
        costs: Where the costs come from.
        seed: Of the split of the data.
        rows: How many rows each part of the data had.
        figures: Measured on held-out rows: (value, lower end, upper end of the 95 % interval); those of `share of EXIT`
            hold together with 99 %.
        guarantee: What was promised.
        thresholds: What was chosen for each exit that may fire; an exit that is `never` by hand is none of them.
        exits_before: Thresholds as they were before the bundle was first tuned.
        constants_before: Constants as they were then, those that tuning has changed.
    """

    goal: str
    metric: str
    costs: str
    seed: Count
    rows: dict[str, Count]
    figures: dict[str, tuple[float, float, float]] = {}
    guarantee: Guarantee | None = None
    thresholds: dict[str, Threshold]
    exits_before: dict[str, Threshold]
    constants_before: dict[str, tuple[float, ...]] = {}


class Quantization(_Struct, frozen=True, kw_only=True):
    """How segments were made smaller after the export.

    Attributes:
        segments: The method of each that is not as it was exported.
        activations: What static ones compute with; None where there is none.
        rows: How many rows calibrated it.
        created_with: What did it, and its settings.
        stale: Whether thresholds and temperatures are still those of the bundle that it was made from.
    """

    segments: dict[str, Method]
    activations: Activations | None = None
    rows: Count
    created_with: dict[str, str | Count]
    stale: bool = False


class ServerExit(_Struct, frozen=True, kw_only=True):
    """An exit of the server's half of a bundle.

    Attributes:
        name: Its name.
        scores: As `Exit.scores`.
        path: The segments with a model that run from the cut to it; None: that depends on the row.
        outputs: Dtype and shape of what it answers, by which a device knows a wrong answer; {}: not told.
        threshold: When it fires there. Where it did not, it was the server's fallback.
    """

    name: str
    outputs: dict[str, Slot] = {}
    scores: ClassScores | None = None
    threshold: Threshold = "always"
    path: tuple[str, ...] | None = None


class Split(_Struct, frozen=True, kw_only=True):
    """Where this bundle, the device's half of one, hands over to a server.

    Attributes:
        exit: The exit that ends the plan here: its outputs are an answer, and what the server needs to go on.
        local: The exit whose answer that is, which stands in where the server gives none.
        answers: The outputs of `exit` that are this answer.
        sends: By input of the server's half, the output of `exit` that it takes.
        model: The name of the server's half.
        version: Tells the server's half from any other; see `plan.halves.version_of`.
        exits: Of the server's half, in order: a server answers with their numbers.
        segments: How many segments with a model both halves have.
    """

    exit: str
    local: str
    answers: tuple[str, ...]
    sends: dict[str, str]
    model: str
    version: Count
    exits: tuple[ServerExit, ...]
    segments: Count


class Manifest(_Struct, frozen=True, kw_only=True):
    """A whole `manifest.json`."""

    format: Literal["eetoolkit-bundle"]
    version: int
    name: str
    created_with: dict[str, str | Count]
    onnxruntime: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,4}[.][0-9]{1,4}$")] | None = None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    limits: dict[str, Limit] = {}
    preprocess: dict[str, Preprocess] = {}
    labels: tuple[str, ...] | None = None
    titles: dict[str, str] = {}
    slots: dict[str, Slot]
    constants: dict[str, Constant] = {}
    batch: Literal[1] | None = None
    start: str
    fallback: Fallback = "last"
    segments: dict[str, Segment]
    files: dict[str, File] = {}
    golden: Golden | None = None
    notes: tuple[str, ...] = ()
    profile: SavedProfile | None = None
    tuning: Tuning | None = None
    quantization: Quantization | None = None
    split: Split | None = None

    @property
    def exits(self) -> dict[str, Exit]:
        """The exits by name, in the order of their first segment; one name may stand in several segments."""
        exits: dict[str, Exit] = {}
        for segment in self.segments.values():
            if segment.exit is not None:
                exits.setdefault(segment.exit.name, segment.exit)
        return exits

    @property
    def ends(self) -> tuple[str, ...]:
        """The exits that end the plan."""
        return tuple(name for name, exit_ in self.exits.items() if exit_.ends)
