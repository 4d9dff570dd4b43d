"""What each segment and each exit of a bundle costs on one machine: a value that can be kept, shown and compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.plan import Manifest, Threshold
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.profiling.latency import Amount, Count, Difference, Latency, Some, Took
from eetoolkit_runtime.profiling.machine import Condition, Machine

VERSION = 5
Share = Annotated[float, msgspec.Meta(ge=0, le=1 + 1e-9)]  # of a sum of shares, by what is lost in rounding
_FAR = 1.3  # times its median from which a mean is far from it


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a profile share."""


class OperatorCost(_Struct, frozen=True, kw_only=True):
    """What one node of a segment costs by onnxruntime's own trace.

    Attributes:
        node: As onnxruntime calls it after it has optimised the graph.
        operator: Its type, such as `Conv`.
        runs: How often it was seen.
        p50_us: What it takes itself, without the nodes of its branches or its body, the median; tracing adds some
            microseconds to each node.
        share: Of what all nodes of the segment take, by their medians.
    """

    node: str
    operator: str
    runs: Some
    p50_us: Amount
    share: Share


class SegmentCost(_Struct, frozen=True, kw_only=True):
    """What one segment costs.

    Attributes:
        nodes: Of its graph.
        parameters: Its weights, in numbers.
        multiply_adds: For one row; None where unknown.
        size_bytes: Its graph and weights on disk.
        load_ms: Opening it, its files in the page cache.
        latency: Running it once; None where no input came there.
        visits: How often an input runs it, in the mean, with the bundle's thresholds.
        exit: The exit in it; None where it has none.
        operators: The costliest first; None where nobody asked or no input came there.
        traced_ms: Running it once while it is traced, the median, to be compared with `latency`; None like `operators`.
    """

    nodes: Count
    parameters: Count
    multiply_adds: Count | None
    size_bytes: Count
    load_ms: Amount
    latency: Latency | None
    visits: Amount
    exit: str | None = None
    operators: tuple[OperatorCost, ...] | None = None
    traced_ms: Amount | None = None


class Added(_Struct, frozen=True, kw_only=True):
    """What some nodes add to a segment: the median of its runs with them less those without them, in turns.

    Attributes:
        added_us: In microseconds; below 0 where it is less than what the machine's noise hides.
        error_us: Half the width of the median's 95 % interval.
    """

    added_us: Difference
    error_us: Amount


def mean_added(each: Sequence[Added | None]) -> Added | None:
    """Returns the mean of those that are known, with its error; None where none is."""
    known = [added for added in each if added is not None]
    if not known:
        return None
    return Added(
        added_us=sum(added.added_us for added in known) / len(known),
        error_us=sum(added.error_us**2 for added in known) ** 0.5 / len(known),
    )


class ExitCost(_Struct, frozen=True, kw_only=True):
    """What an answer at one exit costs.

    Attributes:
        latency: Of calls that always leave there; None where no input came there.
        segments_ms: What the segments of such calls take on full paths, where they find other caches; robust mean.
        call: The calls that ended there, between others that ended elsewhere; None where none did.
        called_ms: What the segments of these take on full paths; robust means.
        expected_ms: What these add to the mean call: the sum over all exits is `Profile.expected.mean_ms`.
        decision: What the nodes add that only its criterion needs; None where they cannot be taken out.
        passing: What all nodes add that only this exit needs, its head and its criterion: its price for an input that
            goes on. None where they cannot be taken out, and where nothing goes on.
        share: Of the inputs that answered there.
        accuracy: Of these the share that was right; None without labels, or where none answered there.
        accuracy_if_always: The share of right answers among all inputs that came there; None without labels.
    """

    latency: Latency | None
    segments_ms: Took | None
    call: Latency | None
    called_ms: Took | None
    expected_ms: Amount
    decision: Added | None = None
    passing: Added | None = None
    share: Share
    accuracy: Share | None = None
    accuracy_if_always: Share | None = None


class WholeCost(_Struct, frozen=True, kw_only=True):
    """The network as one session, run in turns with the calls.

    Attributes:
        file: Its name.
        latency: Of the session's `run`.
        ratio: The mean call of the bundle to its mean: under 1 where exiting early pays.
        full_path_ratio: The median full path of the bundle to its median.
        difference: The largest difference of its outputs from those of the bundle's last exit, over their largest
            magnitude where that is over 1; None where no output has the shape of one of these.
    """

    file: str
    latency: Latency
    ratio: Took
    full_path_ratio: Took
    difference: Amount | None


class Energy(_Struct, frozen=True, kw_only=True):
    """What the machine's own meter says; it measures all that runs there, the idle draw included.

    Attributes:
        meter: Which one, such as `intel-rapl package-0` or `ina226`.
        idle_w: The draw before anything ran, in watts.
        call_mj: A call, in millijoules.
        full_path_mj: A full path, in millijoules.
    """

    meter: str
    idle_w: Difference
    call_mj: Difference
    full_path_mj: Difference


class Memory(_Struct, frozen=True, kw_only=True):
    """Resident memory of the process, in bytes; None where the kernel does not tell.

    Attributes:
        before: Before the bundle was opened.
        opened: With all segments open.
        peak: The most so far, the whole network included if it was run beside the bundle.
    """

    before: Count | None
    opened: Count | None
    peak: Count | None


class Profile(_Struct, frozen=True, kw_only=True):
    """What a bundle costs on one machine.

    Attributes:
        version: Of this format.
        bundle: The bundle's name.
        files: Digests of its graphs, which say whether another profile is of the same bundle.
        measured: When it began, ISO 8601, UTC.
        machine: Where.
        before: The machine's state when it began.
        after: And when it ended.
        threads: Workers for each operator; None: one per physical core.
        spin: What idle workers did.
        pool: Whose workers they were.
        providers: The execution providers of its sessions, in onnxruntime's order, without their options.
        rows: How many different inputs were run: shares, visits and accuracies are theirs.
        timed: How many of them, in the same shares, were timed: latencies are theirs.
        rounds: How many there were, each over all of these, or where that takes too long over some of them in turn.
        merged: Of how many profiles this is made; the mean of a merged latency is exact, its percentiles are
            interpolated between the quantiles of each.
        thresholds: Of each exit.
        warmup_rounds: How often each before that, until the latency was steady.
        steady: Whether it was.
        cooled_s: How long it paused between rounds, so that the machine could cool down.
        segments: By name, in the plan's order.
        exits: By name, in the plan's order.
        expected: A call, over these inputs with these thresholds.
        full_path: A call of which no exit fires, by the same inputs.
        overhead_us: What a full path takes beside its segments' runs, answers and clock readings included, by segment.
        accuracy: Of all inputs; None without labels.
        memory: Of this process.
        whole: The network as one session; None where no file of it was given.
        energy: None where the machine has no meter that this process may read.
    """

    version: int = VERSION
    bundle: str
    files: dict[str, str]
    measured: str
    machine: Machine
    before: Condition
    after: Condition
    threads: Some | None
    spin: str
    pool: str
    providers: tuple[str, ...]
    rows: Some
    timed: Some
    rounds: Some
    warmup_rounds: Count
    steady: bool
    merged: Some = 1
    thresholds: dict[str, Threshold]
    cooled_s: Amount = 0
    segments: dict[str, SegmentCost]
    exits: dict[str, ExitCost]
    expected: Latency
    full_path: Latency
    overhead_us: Difference
    accuracy: Share | None = None
    memory: Memory
    whole: WholeCost | None = None
    energy: Energy | None = None

    @property
    def noise(self) -> str | None:
        """What a mean that is far from its median says of the machine; None where none is."""
        known = {name: cost.latency for name, cost in self.segments.items()}
        known |= {name: cost.latency for name, cost in self.exits.items()}
        known |= {} if self.whole is None else {self.whole.file: self.whole.latency}
        far = {name: one.mean_ms / one.p50_ms for name, one in known.items() if one is not None and one.p50_ms > 0}
        name = max(far, key=far.__getitem__, default="")
        if far.get(name, 0.0) <= _FAR:
            return None
        loads = [f"{one.load:.1f} {when}" for one, when in ((self.before, "before"), (self.after, "after")) if one.load]
        load = f" (load {', '.join(loads)}; {self.machine.cores} cores)" if loads else ""
        return (
            f"the mean of {name} is {far[name]:.1f} times its median: other programs ran{load}, or inputs differ; "
            "tuning and the picture go by robust means, which a quiet machine tells best"
        )

    def __str__(self) -> str:
        call, full = self.expected, self.full_path
        threads = "a worker for each core" if self.threads is None else f"threads={self.threads}"
        lines = [
            f"{self.bundle} on {self.machine.processor}, {threads}: {self.rows} inputs, {self.rounds} rounds",
            f"a call {call.mean_ms:.4g} ms in the mean, p90 {call.p90_ms:.4g} ms; a full path {full.mean_ms:.4g} ms",
        ]
        for name, cost in self.exits.items():
            right = "" if cost.accuracy is None else f", {cost.accuracy:.1%} of these right"
            took = "" if cost.latency is None else f", {cost.latency.mean_ms:.4g} ms"
            lines.append(f"{name}: {cost.share:.1%} leave here{took}{right}")
        lines += [] if self.noise is None else [f"note: {self.noise}"]
        return "\n".join(map(printable, lines))


class _Head(msgspec.Struct):
    """The key that says whether the rest can be read at all."""

    version: int | None = None


def digests(plan: Manifest) -> dict[str, str]:
    """Returns the digest of every graph, by which two profiles of one bundle know each other."""
    return {name: file.sha256 for name, file in plan.files.items() if name.endswith(".onnx")}


def encode(profile: Profile) -> bytes:
    """Returns a profile as indented UTF-8 JSON."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def decode(text: bytes, what: str) -> Profile:
    """Returns the profile in `text`; `what` names it in errors.

    Raises:
        BundleError: Not a profile, or of another version.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.version != VERSION:
            raise BundleError(
                f"{what}: profile version {head.version!r}, this eetoolkit reads {VERSION}; profile again, "
                "`eetoolkit profile BUNDLE --save` or `--output FILE`"
            )
        found = msgspec.json.decode(text, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{what} is not a profile: {error}") from error
    _check_names(found, what)
    return found


def _check_names(found: Profile, what: str) -> None:
    """Refuses a profile without segments or exits, or with exits of which it says nothing elsewhere."""
    named = {cost.exit for cost in found.segments.values() if cost.exit is not None}
    if not found.segments or not named <= found.exits.keys() or found.thresholds.keys() != found.exits.keys():
        raise BundleError(
            f"{what} is not a profile: its {len(found.segments)} segments, {len(found.exits)} exits and "
            f"{len(found.thresholds)} thresholds do not name the same exits; profile again"
        )
