"""What parts of a bundle cost: a node, a segment, an exit, the network as one session, and its energy and memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec

from eetoolkit_runtime.profiling.latency import Amount, Count, Difference, Latency, Some, Took

Share = Annotated[float, msgspec.Meta(ge=0, le=1 + 1e-9)]  # of a sum of shares, by what is lost in rounding


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
    """What one segment costs; only its latency is needed.

    Attributes:
        nodes: Of its graph.
        parameters: Its weights, in numbers.
        multiply_adds: For one row; None where unknown.
        size_bytes: Its graph and weights on disk.
        load_ms: Opening it, its files in the page cache; None where there was no time.
        latency: Running it once; None where no input that was timed came there.
        visits: How often an input runs it, in the mean, with the bundle's thresholds.
        exit: The exit in it; None where it has none.
        operators: The costliest first; None where nobody asked or no input came there.
        traced_ms: Running it once while it is traced, the median, to be compared with `latency`; None like `operators`.
    """

    nodes: Count = 0
    parameters: Count = 0
    multiply_adds: Count | None = None
    size_bytes: Count = 0
    load_ms: Amount | None = None
    latency: Latency | None
    visits: Amount = 0
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
    """What an answer at one exit costs; only its latency is needed.

    Attributes:
        latency: Of calls that always leave there; None where no input came there, or there was no time.
        segments_ms: What the segments of such calls take on full paths, where they find other caches; robust mean.
        call: The calls that ended there, between others that ended elsewhere; None where none did.
        called_ms: What the segments of these take on full paths; robust means.
        expected_ms: What these add to the mean call: the sum over all exits is `Profile.expected.mean_ms`.
        decision: What the nodes add that only its criterion needs; None where they cannot be taken out, or there was no
            time.
        passing: What all nodes add that only this exit needs, its head and its criterion: its price for an input that
            goes on. None where they cannot be taken out, where nothing goes on, and where there was no time.
        share: Of the inputs that answered there.
        accuracy: Of these the share that was right; None without labels, or where none answered there.
        accuracy_if_always: The share of right answers among all inputs that came there; None without labels, or
            without time.
    """

    latency: Latency | None
    segments_ms: Took | None = None
    call: Latency | None = None
    called_ms: Took | None = None
    expected_ms: Amount = 0
    decision: Added | None = None
    passing: Added | None = None
    share: Share = 0
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

    before: Count | None = None
    opened: Count | None = None
    peak: Count | None = None
