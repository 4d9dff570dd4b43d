"""Proofs about a plan, before anything runs.

A plan is a control-flow graph over slots, so these are the textbook dataflow analyses: reachability, definite
assignment (a forward must-analysis to a fixed point), and cycles. What only onnxruntime can know (that a graph really
has the inputs and outputs that the manifest names) is checked when the segment's session is opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from eetoolkit_runtime.errors import ManifestError
from eetoolkit_runtime.plan.flow import assigned_before, closure, looked_at, mask_of, slot_bits, successors
from eetoolkit_runtime.plan.names import check_names
from eetoolkit_runtime.plan.types import (
    JOURNAL,
    MANIFEST,
    MOST_EXACT,
    Constant,
    Dim,
    DType,
    Gate,
    Manifest,
    Preprocess,
    Segment,
    Slot,
    Stop,
    Switch,
    spell,
)
from eetoolkit_runtime.plan.validate_split import check_split

MOST_SEGMENTS, MOST_SLOTS = 4096, 16384
"""So that the proofs, whose time grows with both, stay below a second or so whatever a plan holds."""
_MOST_ELEMENTS = 1 << 40
_LONGEST_NAME_BYTES = 255  # of a file, on all common file systems


def validate(plan: Manifest) -> None:
    """Proves that `plan` can run to an answer whatever its gates say.

    Raises:
        ManifestError: More segments or slots than a plan may have, a name that is not defined, a segment that cannot be
            reached, a path that cannot stop, a cycle without a bound, a read of a slot that some path leaves unwritten,
            dtypes or shapes that do not fit, a file name that leaves the bundle, two file names that are one on a
            case-insensitive disk.
    """
    _check_counts(plan)
    check_names(plan)
    _check_names(plan)
    _check_segments(plan)
    _check_twins(plan)
    check_files(plan)
    _check_flow(plan)
    _check_profile(plan)
    _check_quantization(plan)
    check_split(plan)
    _check_cycles(plan)
    _check_assignment(plan)
    _check_types(plan)


def _check_counts(plan: Manifest) -> None:
    for what, count, most in (("segments", len(plan.segments), MOST_SEGMENTS), ("slots", len(plan.slots), MOST_SLOTS)):
        if count > most:
            raise ManifestError(f"manifest.json: {count} {what}, a plan has at most {most}")


def _check_names(plan: Manifest) -> None:
    if not (inputs := [spec.name for spec in plan.inputs]):
        raise ManifestError("manifest.json: no inputs")
    if len(set(inputs)) != len(inputs):
        raise ManifestError(f"manifest.json: two inputs of one name among {inputs}")
    both = (set(plan.slots) | set(inputs)) & set(plan.constants)
    if both or set(inputs) & set(plan.slots):
        names = sorted(both | set(inputs) & set(plan.slots))
        raise ManifestError(f"manifest.json: inputs, slots and constants share the names {names}")
    symbols = {dim for spec in plan.inputs for dim in spec.shape if isinstance(dim, str)}
    for symbol, limit in plan.limits.items():
        if symbol not in symbols:
            raise ManifestError(f"manifest.json: limits names {symbol!r}, which is no dimension of the inputs")
        if limit.max is not None and limit.max < limit.min:
            raise ManifestError(f"manifest.json: limits of {symbol!r}: {limit.min} to {limit.max} is no size")
    for name, constant in plan.constants.items():
        if math.prod(constant.shape) != len(constant.data):
            raise ManifestError(
                f"constant {name!r}: shape {list(constant.shape)} needs {math.prod(constant.shape)} values, "
                f"got {len(constant.data)}"
            )
        if wrong := [value for value in constant.data if not _holds(constant.dtype, value)]:
            raise ManifestError(f"constant {name!r}: {wrong[0]!r} is not a finite {constant.dtype}")
    if unknown := set(plan.preprocess) - set(inputs):
        raise ManifestError(f"manifest.json: preprocess names {sorted(unknown)}, the inputs are {inputs}")
    for spec in plan.inputs:
        problem = preprocess_problem(plan.preprocess.get(spec.name), spec.dtype, spec.shape)
        if problem is not None:
            raise ManifestError(f"preprocess of {spec.name!r}: {problem}")


def preprocess_problem(  # noqa: PLR0911 - one cause each
    preprocess: Preprocess | None, dtype: str, shape: Sequence[Dim]
) -> str | None:
    """Returns why pixels cannot be prepared like this for such an input; None where they can."""
    if preprocess is None:
        return None
    if not dtype.startswith("float"):
        return f"it is {dtype}, expected floating-point numbers"
    if len(shape) != 4:
        return f"its shape is {list(shape)}, expected four dimensions"
    channels = shape[1 if preprocess.layout == "NCHW" else 3]
    if not all(map(math.isfinite, (preprocess.scale, *preprocess.mean, *preprocess.std))):
        return "scale, mean and std must be finite"
    for key, values in (("mean", preprocess.mean), ("std", preprocess.std)):
        if len(values) != 1 and len(values) != channels:
            return f"{key} has {len(values)} values, expected 1 or {channels}"
    size = shape[2:4] if preprocess.layout == "NCHW" else shape[1:3]
    if any(isinstance(dim, int) and dim != wanted for dim, wanted in zip(size, preprocess.resize, strict=True)):
        return f"resize is {list(preprocess.resize)}, its shape is {list(shape)}"
    return "std is 0" if 0 in preprocess.std else None


_DIGITS = re.compile("-?[1-9][0-9]{15,19}")
_LARGEST = {"float16": 65504.0, "float32": 3.4028234663852886e38, "float64": math.inf}  # IEEE 754


def _holds(dtype: DType, value: float | str) -> bool:
    """Whether a JSON value is one of `dtype`; integers beyond what JSON keeps, and they alone, are strings."""
    if dtype == "bool" or isinstance(value, bool):
        return dtype == "bool" and isinstance(value, bool)
    if isinstance(value, str):
        if not _DIGITS.fullmatch(value) or abs(int(value)) <= MOST_EXACT or dtype.startswith("float"):
            return False
        value = int(value)
    elif isinstance(value, int) and abs(value) > MOST_EXACT:
        return False
    if dtype.startswith("float"):
        return math.isfinite(value) and abs(value) <= _LARGEST[dtype]
    bits = int(dtype.lstrip("uint"))
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return isinstance(value, int) and low <= value <= high


def _check_segments(plan: Manifest) -> None:
    """Every name that a segment uses is defined."""
    tensors = plan.slots.keys() | {spec.name for spec in plan.inputs}
    for name, segment in plan.segments.items():
        for graph_input, source in segment.reads.items():
            if source not in tensors and source not in plan.constants:
                raise ManifestError(f"segment {name!r}: reads {graph_input!r} from {source!r}, which is not defined")
        for slot, origin in segment.writes.items():
            if slot not in plan.slots:
                raise ManifestError(f"segment {name!r}: writes {slot!r}, which is not among the slots")
            if origin.slot is not None and origin.slot not in tensors:
                raise ManifestError(f"segment {name!r}: moves {origin.slot!r} to {slot!r}, which is not defined")
            if origin.constant is not None and origin.constant not in plan.constants:
                raise ManifestError(f"segment {name!r}: moves the constant {origin.constant!r}, which is not defined")
            if origin.output is not None and segment.model is None:
                raise ManifestError(f"segment {name!r}: takes output {origin.output!r} but has no model")
        if segment.model is not None and all(origin.output is None for origin in segment.writes.values()):
            raise ManifestError(f"segment {name!r}: has a model but takes no output of it")
        if segment.reads and segment.model is None:
            raise ManifestError(f"segment {name!r}: reads {sorted(segment.reads)} but has no model")
        for what, slot in looked_at(segment):
            if slot not in tensors:
                raise ManifestError(f"segment {name!r}: {what} is the slot {slot!r}, which is not defined")


def _check_twins(plan: Manifest) -> None:
    """An exit that stands in several segments is one exit."""
    seen: dict[str, tuple[object, ...]] = {}
    for name, segment in plan.segments.items():
        if segment.exit is not None:
            kind = (segment.exit.threshold, sorted(segment.exit.outputs))
            if seen.setdefault(segment.exit.name, kind) != kind:
                raise ManifestError(
                    f"segment {name!r}: exit {segment.exit.name!r} stands elsewhere with another threshold or outputs"
                )


def is_plain(name: str) -> bool:
    """Whether a name is that of a file inside the bundle's folder, and not the manifest's nor a writer's journal's."""
    own = {"", ".", "..", MANIFEST, JOURNAL}
    return name not in own and not any(c in name for c in "/\\:\0") and name == name.strip()


def check_files(plan: Manifest) -> None:
    """Proves that file names are plain and distinct, and that what segments name is listed.

    Raises:
        ManifestError: Says which is not.
    """
    folded: dict[str, str] = {MANIFEST: MANIFEST}
    for name in plan.files:
        if not is_plain(name):
            raise ManifestError(f"manifest.json: {name!r} is not a plain file name inside the bundle")
        if len(name.encode()) > _LONGEST_NAME_BYTES:
            raise ManifestError(f"manifest.json: the file name {name[:20]!r}… has over {_LONGEST_NAME_BYTES} bytes")
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise ManifestError(f"manifest.json: {other!r} and {name!r} are one file on a case-insensitive disk")
    for segment_name, segment in plan.segments.items():
        for file in (segment.model, *segment.weights):
            if file is not None and file not in plan.files:
                raise ManifestError(f"segment {segment_name!r}: the file {file!r} is not listed under files")
    for what, entry in (("golden", plan.golden), ("profile", plan.profile)):
        if entry is not None and entry.file is not None and entry.file not in plan.files:
            raise ManifestError(f"manifest.json: the {what} file {entry.file!r} is not listed under files")
    if plan.golden is not None and not math.isfinite(plan.golden.tolerance):
        raise ManifestError(f"manifest.json: the golden tolerance is {plan.golden.tolerance}, not finite")


def _check_flow(plan: Manifest) -> None:
    if plan.start not in plan.segments:
        raise ManifestError(f"manifest.json: start is {plan.start!r}, which is not a segment")
    predecessors: dict[str, list[str]] = {name: [] for name in plan.segments}
    for name, segment in plan.segments.items():
        if isinstance(segment.next, Switch) and not segment.next.cases:
            raise ManifestError(f"segment {name!r}: a switch without cases")
        for following in successors(segment):
            if following not in plan.segments:
                raise ManifestError(f"segment {name!r}: goes to {following!r}, which is not a segment")
            predecessors[following].append(name)
        if isinstance(segment.next, Stop):
            if segment.exit is None:
                raise ManifestError(f"segment {name!r}: stops without an exit")
            if not segment.exit.ends:
                raise ManifestError(
                    f"segment {name!r}: exit {segment.exit.name!r} ends the plan: "
                    f'"threshold" is {segment.exit.threshold!r}, expected "always"'
                )
        elif segment.exit is not None and segment.exit.ends:
            raise ManifestError(
                f'segment {name!r}: exit {segment.exit.name!r} has the threshold "always" but does not stop'
            )
    edges = {name: successors(segment) for name, segment in plan.segments.items()}
    if unreachable := plan.segments.keys() - closure((plan.start,), edges):
        raise ManifestError(f"segments {sorted(unreachable)} cannot be reached from {plan.start!r}")
    stops = [name for name, segment in plan.segments.items() if isinstance(segment.next, Stop)]
    if endless := plan.segments.keys() - closure(stops, predecessors):
        raise ManifestError(f"segments {sorted(endless)} cannot reach a stop: the plan would loop for ever")


def _check_quantization(plan: Manifest) -> None:
    if plan.quantization is None:
        return
    methods, activations = plan.quantization.segments, plan.quantization.activations
    for name in methods:
        if name not in plan.segments or plan.segments[name].model is None:
            raise ManifestError(f"manifest.json: quantization names {name!r}, which is not a segment with a model")
    if ("static" in methods.values()) != (activations is not None):
        raise ManifestError(f"manifest.json: quantization: activations {activations!r}, those of static segments alone")


def _check_profile(plan: Manifest) -> None:
    for name, latency_ms in plan.profile.expected_ms.items() if plan.profile is not None else ():
        if name not in plan.segments:
            raise ManifestError(f"manifest.json: profile names {name!r}, which is not a segment")
        if not math.isfinite(latency_ms):
            raise ManifestError(f"manifest.json: profile says {latency_ms} ms for {name!r}, which is not finite")


def _check_cycles(plan: Manifest) -> None:
    """Kahn's algorithm on the graph without the segments that bound their visits: what is left over is a cycle."""
    bounded = {name for name, segment in plan.segments.items() if segment.model and segment.max_visits}
    edges = {
        name: [following for following in successors(segment) if following not in bounded]
        for name, segment in plan.segments.items()
        if name not in bounded
    }
    left = _without_sources(_without_sources(edges), backwards=True)
    if left:
        raise ManifestError(
            f"segments {sorted(left)} lie on a cycle without a bound: give one with a model `max_visits`"
        )


def _without_sources(edges: dict[str, list[str]], *, backwards: bool = False) -> dict[str, list[str]]:
    """Returns what is left of a graph when nodes that nothing leads to (or that lead nowhere) are taken off in turn."""
    kept = {name: [other for other in others if other in edges] for name, others in edges.items()}
    if backwards:
        turned: dict[str, list[str]] = {name: [] for name in kept}
        for name, others in kept.items():
            for other in others:
                turned[other].append(name)
        kept = turned
    arrows = dict.fromkeys(kept, 0)
    for other in (other for others in kept.values() for other in others):
        arrows[other] += 1
    free = [name for name, count in arrows.items() if count == 0]
    while free:
        for other in kept.pop(free.pop()):
            arrows[other] -= 1
            if arrows[other] == 0:
                free.append(other)
    return kept


def _check_assignment(plan: Manifest) -> None:
    """Proves that every slot is written before it is read, on every path (forward must-analysis to a fixed point)."""
    bits = slot_bits(plan)
    before = assigned_before(plan, bits)
    for name, segment in plan.segments.items():
        known = before[name]
        for source in segment.reads.values():
            if source not in plan.constants and not known & bits[source]:
                raise ManifestError(f"segment {name!r}: reads {source!r}, which some path to it leaves unwritten")
        for origin in segment.writes.values():
            if origin.slot is not None and not known & bits[origin.slot]:
                raise ManifestError(f"segment {name!r}: moves {origin.slot!r}, which some path to it leaves unwritten")
        for what, slot in looked_at(segment):
            if not (known | mask_of(segment.writes, bits)) & bits[slot]:
                raise ManifestError(f"segment {name!r}: {what} {slot!r} is left unwritten by some path")


def _check_types(plan: Manifest) -> None:
    slots: dict[str, Slot] = {spec.name: Slot(dtype=spec.dtype, shape=spec.shape) for spec in plan.inputs} | plan.slots
    for name, slot in slots.items():
        if math.prod(dim for dim in slot.shape if isinstance(dim, int)) > _MOST_ELEMENTS:
            raise ManifestError(f"manifest.json: {name!r} is {spell(slot)}, over {_MOST_ELEMENTS} elements")
    for name, segment in plan.segments.items():
        _check_twin_slots(name, segment, slots)
        for target, origin in segment.writes.items():
            source = slots[origin.slot] if origin.slot is not None else plan.constants.get(origin.constant or "")
            if source is not None and not _fits(source, slots[target]):
                raise ManifestError(f"segment {name!r}: {target!r} takes {spell(source)}, it is {spell(slots[target])}")
        if segment.exit is not None:
            _check_exit(plan, name, segment, slots)
        if isinstance(segment.next, Gate | Switch):
            allowed: tuple[DType, ...] = ("bool",) if isinstance(segment.next, Gate) else ("int64", "int32")
            _check_per_row(f"segment {name!r}: {segment.next.on!r}", slots[segment.next.on], allowed)


def _check_twin_slots(name: str, segment: Segment, slots: Mapping[str, Slot]) -> None:
    """Slots that one output feeds hold one tensor."""
    first: dict[str, str] = {}
    for target, origin in segment.writes.items():
        if origin.output is not None:
            other = first.setdefault(origin.output, target)
            if not _fits(slots[other], slots[target]) or not _fits(slots[target], slots[other]):
                raise ManifestError(
                    f"segment {name!r}: output {origin.output!r} feeds {other!r}, {spell(slots[other])}, and "
                    f"{target!r}, {spell(slots[target])}"
                )


def _check_exit(plan: Manifest, name: str, segment: Segment, slots: Mapping[str, Slot]) -> None:
    exit_ = segment.exit
    if exit_ is None:
        return
    _check_per_row(f"segment {name!r}: confidence {exit_.confidence!r}", slots[exit_.confidence], ("float32",))
    if not exit_.outputs:
        raise ManifestError(f"segment {name!r}: exit {exit_.name!r} has no outputs")
    for key, constant in exit_.criterion.named_constants():
        if constant not in plan.constants:
            raise ManifestError(f"segment {name!r}: the {key} {constant!r} is not among the constants")
    if isinstance(exit_.threshold, float) and not math.isfinite(exit_.threshold):
        raise ManifestError(f"segment {name!r}: the threshold is {exit_.threshold}, not finite; 'never' disables it")


def _check_per_row(what: str, slot: Slot, dtypes: tuple[DType, ...]) -> None:
    one = slot.shape == () or (len(slot.shape) == 1 and (slot.shape[0] == 1 or isinstance(slot.shape[0], str)))
    if slot.dtype not in dtypes or not one:
        raise ManifestError(f"{what} is {spell(slot)}, expected one {' or '.join(dtypes)} per row")


def _fits(source: Slot | Constant, target: Slot) -> bool:
    if source.dtype != target.dtype or len(source.shape) != len(target.shape):
        return False

    if None in source.shape and None not in target.shape:
        return False  # what depends on data cannot become what is fixed

    def one(a: Dim, b: Dim) -> bool:
        return a == b or not (isinstance(a, int) and isinstance(b, int))

    return all(one(a, b) for a, b in zip(source.shape, target.shape, strict=True))
