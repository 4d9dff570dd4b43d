"""What each segment and each exit of a bundle costs on one machine: a value that can be kept, shown and compared."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.errors import BundleError
from eetoolkit_runtime.machine import Condition, Machine

VERSION = 1
_FAR = 5  # spreads above the median from which a latency counts as an outlier


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What all parts of a profile share."""


class Latency(_Struct, frozen=True, kw_only=True):
    """How long something took, in milliseconds; no run is left out.

    Attributes:
        runs: How often it was run.
        spread_ms: Half the distance between the quartiles.
        outliers: How many runs took longer than the median and five times the distance between the quartiles.
    """

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    spread_ms: float
    outliers: int


class SegmentCost(_Struct, frozen=True, kw_only=True):
    """What one segment costs.

    Attributes:
        nodes: Of its graph.
        parameters: Its weights, in numbers.
        multiply_adds: For one row; None where unknown.
        size_bytes: Its graph and weights on disk.
        load_ms: Opening it, its files in the page cache.
        latency: Running it once; None where no input came there.
        visits: How often an input runs it, in the mean, with the thresholds that were given.
    """

    nodes: int
    parameters: int
    multiply_adds: int | None
    size_bytes: int
    load_ms: float
    latency: Latency | None
    visits: float


class ExitCost(_Struct, frozen=True, kw_only=True):
    """What an answer at one exit costs.

    Attributes:
        latency: From the call to the exit; None where no input came there.
        share: Of the inputs that answered there.
        accuracy: Of these the share that was right; None without labels, or where none answered there.
        accuracy_if_always: The share of right answers among all inputs that came there; None without labels.
    """

    latency: Latency | None
    share: float
    accuracy: float | None = None
    accuracy_if_always: float | None = None


class Memory(_Struct, frozen=True, kw_only=True):
    """Resident memory of the process, in bytes; None where the kernel does not tell.

    Attributes:
        before: Before the bundle was opened.
        opened: With all segments open.
        peak: The most so far.
    """

    before: int | None
    opened: int | None
    peak: int | None


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
        rows: How many different inputs were run.
        rounds: How often each.
        warmup_rounds: How often each before that, until the latency was steady.
        steady: Whether it was.
        segments: By name, in the plan's order.
        exits: By name, in the plan's order.
        expected: A call, over these inputs with these thresholds.
        full_path: A call that answers at the last exit, by the same inputs.
        overhead_us: What a full path takes beside its segments' runs, answers and clock readings included, by segment.
        accuracy: Of all inputs; None without labels.
        memory: Of this process.
    """

    version: int = VERSION
    bundle: str
    files: dict[str, str]
    measured: str
    machine: Machine
    before: Condition
    after: Condition
    threads: int | None
    spin: str
    pool: str
    rows: int
    rounds: int
    warmup_rounds: int
    steady: bool
    segments: dict[str, SegmentCost]
    exits: dict[str, ExitCost]
    expected: Latency
    full_path: Latency | None
    overhead_us: float
    accuracy: float | None = None
    memory: Memory


def summarise(latencies_ms: npt.ArrayLike) -> Latency:
    """Returns the summary of latencies, (runs,)."""
    values = np.asarray(latencies_ms, np.float64)
    p25, p50, p75, p90, p99 = (float(q) for q in np.quantile(values, (0.25, 0.5, 0.75, 0.9, 0.99)))
    return Latency(
        runs=len(values),
        mean_ms=float(values.mean()),
        p50_ms=p50,
        p90_ms=p90,
        p99_ms=p99,
        spread_ms=(p75 - p25) / 2,
        outliers=int((values > p50 + _FAR * (p75 - p25)).sum()),
    )


def encode(profile: Profile) -> bytes:
    """Returns a profile as indented UTF-8 JSON."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def decode(text: bytes, what: str) -> Profile:
    """Returns the profile in `text`; `what` names it in errors.

    Raises:
        BundleError: Not a profile, or of another version.
    """
    try:
        head: Any = msgspec.json.decode(text)
        if isinstance(head, dict) and head.get("version") != VERSION:
            raise BundleError(f"{what}: profile version {head.get('version')!r}, this eetoolkit reads {VERSION}")
        return msgspec.json.decode(text, type=Profile)
    except msgspec.MsgspecError as error:
        raise BundleError(f"{what} is not a profile: {error}") from error
