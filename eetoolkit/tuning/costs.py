"""What a run costs that ends at a visit: from a profile of a machine, else by a static estimate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from eetoolkit.tuning.record import Record
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.flow import chains, decider, live_before, live_beyond, without_exits
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.profiling.costs import ExitCost
from eetoolkit_runtime.profiling.latency import QUANTILES
from eetoolkit_runtime.profiling.profile import Profile, digests

Unit = Literal["ms", "multiply-adds", "segments"]

_FEW_CALLS = 10  # of an exit, which count as much as those of all others


@dataclass(frozen=True, eq=False)
class Costs:
    """What one run of each segment costs.

    Attributes:
        of: By segment, float64 (S,), in the record's order; NaN where it is not known.
        each: What a segment's run takes outside its graph, in a chain: what a cut costs.
        scale: By exit, in the record's order, what a run that ends there takes over what its segments would, (E,): on
            full paths, where they are timed, they find other caches.
        jitter: By exit, what quantiles of a run's latency are over its cost, (E, Q) at `QUANTILES`; None: not known.
        heads: By exit, what its head and its criterion cost a row that goes on; without those that are not known.
        unit: Of both.
        source: Where they come from, for people.
    """

    of: Array
    each: float
    unit: Unit
    source: str
    heads: Mapping[str, float] = field(default_factory=dict)
    scale: Array | None = None
    jitter: Array | None = None

    def of_visits(self, record: Record) -> Array:
        """Returns what a run that ends at each visit costs, (N, V).

        Raises:
            TuneError: A segment that rows come through has no cost, or the whole network costs nothing, or more than
                numbers hold.
        """
        met = record.ways.sum(axis=0) > 0
        unknown = [
            name for name, cost, used in zip(record.segments, self.of, met, strict=True) if used and np.isnan(cost)
        ]
        if unknown:
            raise TuneError(
                f"{self.source} has no latency for {', '.join(unknown)}, which rows of the data come through; profile "
                "with inputs that reach it"
            )
        ways = record.ways @ np.nan_to_num(self.of)
        scale = np.ones(len(record.exits)) if self.scale is None else self.scale
        found = np.asarray(ways[record.way] * np.append(scale, 1.0)[record.exit])  # the last for `NO_EXIT`, -1
        whole = float(found[np.arange(len(record)), record.last].sum())
        if not 0 < whole < np.inf or not np.isfinite(found).all():
            raise TuneError(f"{self.source} makes the whole network cost {whole:g} over all rows; profile it again")
        return found


def choose_costs(
    plan: Manifest, record: Record, profile: Profile | None, providers: tuple[str, ...], *, force: bool = False
) -> Costs:
    """Returns the costs by a profile, else by the latencies in the manifest, else by multiply-adds.

    What each costs is the robust mean, since an expected latency is a mean, and one run that another program disturbed
    would decide it; the manifest holds p90 alone.

    Where a segment's multiply-adds are not known, every run of a segment costs 1.

    Args:
        plan: The bundle's.
        record: Names the segments.
        profile: Of any machine.
        providers: The execution providers that the bundle is to run on.
        force: Whether a profile of another bundle or of other providers is taken, as far as its segments have the same
            names.

    Raises:
        TuneError: The profile is of another bundle, or of other providers.
    """
    names = record.segments
    if profile is not None:
        if not force:
            check_profile(plan, profile, providers)
        return costs_of_profile(profile, record)
    if plan.profile is not None:
        of = np.array([plan.profile.expected_ms.get(name, np.nan) for name in names])
        return Costs(of, 0.0, "ms", "the latencies (p90) in the bundle's manifest")
    work = [plan.segments[name].work for name in names]
    known = [each.multiply_adds for each in work if each is not None and each.multiply_adds is not None]
    if len(known) == len(names) and any(known):
        return Costs(np.array(known, np.float64), 0.0, "multiply-adds", "a static estimate")
    return Costs(np.ones(len(names)), 0.0, "segments", "a count of segments, whose multiply-adds are not known")


def check_profile(plan: Manifest, profile: Profile, providers: tuple[str, ...], what: str = "this profile") -> None:
    """Refuses a profile of another bundle, or of other providers.

    Args:
        plan: The bundle's.
        profile: Of any machine.
        providers: The execution providers that the bundle is to run on.
        what: Names the profile.

    Raises:
        TuneError: It is.
    """
    if profile.files != digests(plan):
        raise TuneError(
            f"{what} is of another bundle, {profile.bundle!r}, or of another build of {plan.name!r}; profile again, or "
            "pass force=True (--force)"
        )
    if profile.providers != providers:
        raise TuneError(
            f"{what} is of a run on {', '.join(profile.providers)}, expected {', '.join(providers)}; profile again, "
            "name the providers that the bundle is to run on, or pass force=True (--force)"
        )


def overheads_of(plan: Manifest, costs: Costs, exits: Sequence[str]) -> Array:
    """Returns what a visit of each exit costs, (E,): its head where that is known, and its cut."""
    heads = _known_heads(plan, costs)
    return _cuts(plan, costs, exits) + [heads.get(name, 0.0) for name in exits]


def estimated_overheads(
    plan: Manifest, costs: Costs, exits: Sequence[str], heads: Mapping[str, float] | None = None
) -> Array:
    """Returns what a visit of each exit costs, (E,), with an estimate of heads that are not known.

    What is measured counts, else what `heads` says, else the mean of those that are known, but no more than the exit's
    segment costs. An exit that ends the plan has no overhead.

    Args:
        plan: The bundle's.
        costs: What runs cost.
        exits: Names.
        heads: By exit, what its head costs in the unit of `costs`, such as its multiply-adds.

    Raises:
        TuneError: Nothing is known of any head.
    """
    known = {**(heads or {}), **_known_heads(plan, costs)}
    early = [name for name in exits if not plan.exits[name].ends]
    if early and not any(name in known for name in early):
        raise TuneError(
            f"{costs.source} says nothing of what the heads of {plan.name!r} cost; profile it, for longer (--seconds)"
        )
    mean = float(np.mean([known[name] for name in early if name in known] or [0.0]))
    spent = [min(known.get(name, mean), _most(plan, costs, name)) if name in early else 0.0 for name in exits]
    return _cuts(plan, costs, exits) + spent


def _known_heads(plan: Manifest, costs: Costs) -> dict[str, float]:
    """Returns what each head costs that was measured, or that is all that its segment runs."""
    live = live_before(plan)
    alone = dict.fromkeys(plan.exits, True)
    for segment in plan.segments.values():
        if segment.exit is not None:
            kept = live_beyond(segment, live) | {decider(segment)}
            more = any(slot in kept for slot, source in segment.writes.items() if source.output is not None)
            alone[segment.exit.name] &= not more and not segment.exit.ends
    whole = {name: _most(plan, costs, name) for name, is_alone in alone.items() if is_alone}
    return {**{name: cost for name, cost in whole.items() if np.isfinite(cost)}, **costs.heads}


def _most(plan: Manifest, costs: Costs, exit_: str) -> float:
    """Returns what the segments cost in which an exit stands, the mean; infinity where that is not known."""
    models = [segment for segment in plan.segments.values() if segment.model is not None]
    own = [
        cost
        for segment, cost in zip(models, costs.of.tolist(), strict=True)
        if segment.exit is not None and segment.exit.name == exit_ and not np.isnan(cost)
    ]
    return float(np.mean(own)) if own else np.inf


def _cuts(plan: Manifest, costs: Costs, exits: Sequence[str]) -> Array:
    """Returns what the cuts at exits cost, (E,): only where two segments were one without it."""
    count = len(chains(plan))
    return np.array([costs.each if len(chains(without_exits(plan, [name]))) < count else 0.0 for name in exits])


def costs_of_profile(profile: Profile, record: Record) -> Costs:
    """Returns robust means: of segments on full paths, scaled for each exit to calls that leave there.

    Raises:
        TuneError: The profile has no latency for a segment that rows of the record come through.
    """
    found = {name: cost.latency.robust_ms for name, cost in profile.segments.items() if cost.latency is not None}
    passing = {name: cost.passing.added_us for name, cost in profile.exits.items() if cost.passing is not None}
    plain = Costs(
        of=np.array([found.get(name, np.nan) for name in record.segments]),
        each=max(0.0, profile.overhead_us) / 1e3,
        unit="ms",
        source=f"a profile of {profile.machine.processor}, {profile.measured}",
        heads={name: max(0.0, added_us) / 1e3 for name, added_us in passing.items()},
    )
    modelled = plain.of_visits(record)
    ended = {name: modelled[record.exit == e] for e, name in enumerate(record.exits)}
    scales = _scales(profile.exits, {name: float(here.mean()) for name, here in ended.items() if len(here)})
    jitter = np.ones((len(record.exits), len(QUANTILES)))
    for e, name in enumerate(record.exits):
        cost, here = profile.exits.get(name), ended[name]
        if cost is None or cost.latency is None or not len(here):
            continue
        if np.ptp(here) <= 1e-9 * here.max():  # else rows differ already, and would twice
            jitter[e] = np.array(cost.latency.quantiles_ms) / cost.latency.robust_ms
    return replace(plain, scale=np.array([scales.get(name, 1.0) for name in record.exits]), jitter=jitter)


def _scales(exits: Mapping[str, ExitCost], modelled: Mapping[str, float]) -> dict[str, float]:
    """Returns what a call that leaves at each exit takes over what its segments take on full paths.

    Of runs that always leave there it is known for every exit. Calls leave here and there, and find colder caches for
    it: how much longer they take, an exit's own calls say as far as it has answered some, else those of all exits.

    Args:
        exits: Of a profile.
        modelled: What the segments of runs that end at an exit take, where the profile does not say so itself.
    """
    always = dict.fromkeys(exits, 1.0)
    for name, cost in exits.items():
        if cost.latency is not None and (alone_ms := cost.segments_ms or modelled.get(name)):
            always[name] = cost.latency.robust_ms / alone_ms
    calls = {
        name: (cost.call.runs, cost.call.robust_ms, always[name] * cost.called_ms)
        for name, cost in exits.items()
        if cost.call is not None and cost.called_ms
    }
    took, alone = (sum(runs * each[k] for runs, *each in calls.values()) for k in (0, 1))
    longer = took / alone if alone else 1.0
    found = {}
    for name, scale in always.items():
        runs, own_took, own_alone = calls.get(name, (0, longer, 1.0))
        found[name] = scale * (runs * own_took / own_alone + _FEW_CALLS * longer) / (runs + _FEW_CALLS)
    return found
