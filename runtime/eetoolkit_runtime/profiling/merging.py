"""Several profiles of one bundle on one machine as one."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.errors import BundleError, InputError
from eetoolkit_runtime.profiling.costs import Energy, ExitCost, OperatorCost, SegmentCost, WholeCost, mean_added
from eetoolkit_runtime.profiling.latency import Latency, pool
from eetoolkit_runtime.profiling.profile import Profile


@checked(InputError)
def merge_profiles(profiles: Sequence[Profile]) -> Profile:
    """Returns several profiles of one bundle on one machine, with the same settings, as one.

    Counts and means are those of all runs together. Percentiles are interpolated: of each profile 25 quantiles are
    kept, not its runs. Shares and accuracies count every profile's inputs.

    Raises:
        BundleError: None, or two that differ in bundle, machine, settings or thresholds, or in what was measured.
    """
    if not profiles:
        raise BundleError("no profiles to merge")
    first, *others = found = sorted(profiles, key=lambda profile: profile.measured)
    for other in others:
        _check_alike(first, other)
    rows = [profile.rows for profile in found]
    accuracies = [profile.accuracy for profile in found]
    return msgspec.structs.replace(
        first,
        after=found[-1].after,
        rows=sum(rows),
        timed=sum(profile.timed for profile in found),
        rounds=sum(profile.rounds for profile in found),
        warmup_rounds=sum(profile.warmup_rounds for profile in found),
        steady=all(profile.steady for profile in found),
        merged=sum(profile.merged for profile in found),
        cooled_s=sum(profile.cooled_s for profile in found),
        segments={name: _merge_segment([p.segments[name] for p in found], rows) for name in first.segments},
        exits={name: _merge_exit([p.exits[name] for p in found], found) for name in first.exits},
        expected=pool([profile.expected for profile in found]),
        full_path=pool([profile.full_path for profile in found]),
        overhead_us=_mean([profile.overhead_us for profile in found], rows),
        accuracy=_mean_of_known(accuracies, rows),
        memory=max(found, key=lambda profile: profile.memory.peak or 0).memory,
        whole=_merge_whole([profile.whole for profile in found if profile.whole is not None], found),
        energy=_merge_energy([profile.energy for profile in found if profile.energy is not None]),
    )


def _check_alike(a: Profile, b: Profile) -> None:
    for what in ("files", "machine", "threads", "spin", "pool", "providers", "thresholds"):
        if getattr(a, what) != getattr(b, what):
            raise BundleError(
                f"profiles of {a.bundle!r} from {a.measured} and {b.measured} differ in {what}, so they are not "
                "merged; compare them"
            )
    if a.segments.keys() != b.segments.keys():
        raise BundleError(f"profiles of {a.bundle!r} from {a.measured} and {b.measured} are not of the same segments")


def _merge_segment(costs: Sequence[SegmentCost], rows: Sequence[int]) -> SegmentCost:
    return msgspec.structs.replace(
        costs[0],
        load_ms=_mean([cost.load_ms for cost in costs], [1] * len(costs)),
        latency=_pool([cost.latency for cost in costs]),
        visits=_mean([cost.visits for cost in costs], rows),
        operators=_merge_operators([cost.operators for cost in costs if cost.operators is not None]),
        traced_ms=_mean_of_known([cost.traced_ms for cost in costs], [1] * len(costs)),
    )


def _merge_operators(each: Sequence[tuple[OperatorCost, ...]]) -> tuple[OperatorCost, ...] | None:
    """Medians are weighted by their runs, and shares follow from these."""
    if not each:
        return None
    nodes: dict[tuple[str, str], list[OperatorCost]] = {}
    for costs in each:
        for cost in costs:
            nodes.setdefault((cost.node, cost.operator), []).append(cost)
    runs = {key: sum(cost.runs for cost in costs) for key, costs in nodes.items()}
    p50_us = {key: _mean([c.p50_us for c in costs], [c.runs for c in costs]) for key, costs in nodes.items()}
    whole = sum(runs[key] * p50_us[key] for key in nodes) or 1.0
    merged = [
        OperatorCost(node=key[0], operator=key[1], runs=runs[key], p50_us=us, share=runs[key] * us / whole)
        for key, us in p50_us.items()
    ]
    return tuple(sorted(merged, key=lambda cost: -cost.share))


def _merge_exit(costs: Sequence[ExitCost], profiles: Sequence[Profile]) -> ExitCost:
    rows = [profile.rows for profile in profiles]
    answered = [cost.share * count for cost, count in zip(costs, rows, strict=True)]
    return ExitCost(
        latency=_pool([cost.latency for cost in costs]),
        segments_ms=_mean_of_known(
            [cost.segments_ms for cost in costs], [0 if cost.latency is None else cost.latency.runs for cost in costs]
        ),
        call=_pool([cost.call for cost in costs]),
        called_ms=_mean_of_known(
            [cost.called_ms for cost in costs], [0 if cost.call is None else cost.call.runs for cost in costs]
        ),
        expected_ms=_mean([cost.expected_ms for cost in costs], [profile.expected.runs for profile in profiles]),
        decision=mean_added([cost.decision for cost in costs]),
        passing=mean_added([cost.passing for cost in costs]),
        share=_mean([cost.share for cost in costs], rows),
        accuracy=_mean_of_known([cost.accuracy for cost in costs], answered),
        accuracy_if_always=_mean_of_known([cost.accuracy_if_always for cost in costs], rows),
    )


def _merge_whole(each: Sequence[WholeCost], profiles: Sequence[Profile]) -> WholeCost | None:
    """Where each has run it; else its ratio would not be of the calls beside it."""
    if len(each) < len(profiles) or len({cost.file for cost in each}) > 1:
        return None
    latency = pool([cost.latency for cost in each])
    return WholeCost(
        file=each[0].file,
        latency=latency,
        ratio=pool([profile.expected for profile in profiles]).mean_ms / latency.mean_ms,
        full_path_ratio=pool([profile.full_path for profile in profiles]).p50_ms / latency.p50_ms,
        difference=max((cost.difference for cost in each if cost.difference is not None), default=None),
    )


def _merge_energy(each: Sequence[Energy]) -> Energy | None:
    if not each or len({energy.meter for energy in each}) > 1:
        return None
    ones = [1] * len(each)
    return Energy(
        meter=each[0].meter,
        idle_w=_mean([energy.idle_w for energy in each], ones),
        call_mj=_mean([energy.call_mj for energy in each], ones),
        full_path_mj=_mean([energy.full_path_mj for energy in each], ones),
    )


def _pool(latencies: Sequence[Latency | None]) -> Latency | None:
    known = [latency for latency in latencies if latency is not None]
    return pool(known) if known else None


def _mean(values: Sequence[float], weights: Sequence[float]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


def _mean_of_known(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None and weight]
    return _mean(*zip(*known, strict=True)) if known else None
