"""What segments take as float and by each method: here, on a device, or by profiles from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import eetoolkit as ee
from eetoolkit.quantizing.choosing import Option
from eetoolkit.quantizing.rows import Part
from eetoolkit.tuning.collect import Progress
from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import TuneError
from eetoolkit_runtime.plan.types import Method
from eetoolkit_runtime.profiling.profile import Profile
from eetoolkit_runtime.running.inputs import Inputs

File = Profile | str | os.PathLike[str]
Given = File | Sequence[File] | Callable[[Bundle], Profile] | None
"""What segments take: profiles of the float bundle and of quantised ones, what measures one, or this machine."""
Measured = Sequence[Profile] | Callable[[Bundle], Profile] | None
"""The same, read."""
Form = Literal["float"] | Method

PROFILED_ROWS = 256
_LEAST_VISITS = 0.01  # a call, where no row that was timed came to a segment


@dataclass(frozen=True)
class Variant:
    """A bundle to be measured.

    Attributes:
        bundle: On disk.
        forms: What each of its segments with a graph is.
    """

    bundle: Bundle
    forms: Mapping[str, Form]


@dataclass(frozen=True)
class Costs:
    """What segments take.

    Attributes:
        ms: By segment and form; those that were not measured are missing.
        visits: How often a call runs each segment, in the mean.
        source: Where this comes from.
        here: Whether it is of this machine.
    """

    ms: Mapping[tuple[str, Form], float]
    visits: Mapping[str, float]
    source: str
    here: bool

    def share(self, choice: Mapping[str, Method]) -> float | None:
        """Returns what a mean call takes with these methods over what it takes as float; None where that is unknown."""
        before = after = 0.0
        for (name, form), taken_ms in self.ms.items():
            if form == "float":
                now_ms = self.ms.get((name, choice.get(name, form)))
                if now_ms is None:
                    return None
                before += self.visits.get(name, 0.0) * taken_ms
                after += self.visits.get(name, 0.0) * now_ms
        return after / before if before > 0 else None

    def options(self, methods: Mapping[str, Sequence[Method]]) -> dict[str, list[Option]]:
        """Returns what each segment may become, with what that saves a call; its most careful method first."""
        found: dict[str, list[Option]] = {}
        for segment, each in methods.items():
            before, visits = self.ms.get((segment, "float")), max(self.visits.get(segment, 0.0), _LEAST_VISITS)
            if before is not None:
                found[segment] = [
                    Option(method, visits * before, visits * after)
                    for method in each
                    if (after := self.ms.get((segment, method))) is not None
                ]
        return found


def read_profiles(given: Given) -> Measured:
    """Returns the profiles that files hold; what measures one, or None, as it is given.

    Raises:
        BundleError: One that is no profile.
        TuneError: There are none.
    """
    if given is None or callable(given):
        return given
    files = [given] if isinstance(given, Profile | str | os.PathLike) else list(given)
    if not files:
        raise TuneError("profile is empty; pass profiles of the float bundle and of a quantised one")
    return [each if isinstance(each, Profile) else Profile.read(each) for each in files]


def measure(
    variants: Sequence[Variant],
    rows: Callable[[], Iterator[Inputs]],
    measured: Measured,
    *,
    seconds: float,
    threads: int | None,
    tell: Progress,
) -> Costs:
    """Returns what the segments of some bundles take.

    Args:
        variants: The float bundle first.
        rows: Gives real rows, for this machine.
        measured: See `Measured`.
        seconds: For each bundle, on this machine.
        threads: As the `Runner`'s.
        tell: Is told (what, done, total).

    Raises:
        TuneError: Profiles that are none of the float bundle, or of no quantised one.
    """
    if measured is None:
        given = [ee.profile(each.bundle, rows(), seconds=seconds, threads=threads, progress=tell) for each in variants]
        here = [(each, [profile]) for each, profile in zip(variants, given, strict=True)]
        return _costs(here, "measured on this machine", here=True)
    if callable(measured):
        there = [(each, [_measured(measured, each.bundle)]) for each in variants]
        return _costs(there, _source(there[0][1][0]), here=False)
    found = _costs([(each, measured) for each in variants], _source(measured[0]), here=False)
    if all(form == "float" for _, form in found.ms):
        raise TuneError(
            "no profile is of its quantised form: write that with --segments all (segments='all') by the same rows, "
            "seed and options, run `eetoolkit profile` of it on the device, and pass both profiles"
        )
    return found


def _measured(measure_one: Callable[[Bundle], Profile], bundle: Bundle) -> Profile:
    found = measure_one(bundle)
    if not isinstance(found, Profile):
        raise TuneError(f"profile returned {shortened(found)}, expected a Profile")
    return found


def measure_one(
    bundle: Bundle, part: Part, measured: Measured, *, seconds: float, threads: int | None, tell: Progress
) -> Profile | None:
    """Returns what a bundle takes where the others were measured; None where that is known by files alone."""
    if callable(measured):
        return _measured(measured, bundle)
    if measured is not None:
        return None
    rows = iter(part.evenly(PROFILED_ROWS))
    return ee.profile(bundle, rows, seconds=seconds, threads=threads, progress=tell)


def _costs(given: Sequence[tuple[Variant, Sequence[Profile]]], source: str, *, here: bool) -> Costs:
    ms: dict[tuple[str, Form], float] = {}
    visits: dict[str, float] = {}
    used: dict[str, None] = {}
    for variant, profiles in given:
        plan = variant.bundle.manifest
        for name, form in variant.forms.items():
            model = str(plan.segments[name].model)
            for profile in profiles:
                cost = profile.segments.get(name)
                if cost is None or cost.latency is None or profile.files.get(model) != plan.files[model].sha256:
                    continue
                ms.setdefault((name, form), cost.latency.robust_ms)
                if form == "float":
                    visits.setdefault(name, cost.visits)
                used[_setting(profile)] = None
    if not any(form == "float" for _, form in ms):
        raise TuneError(f"no profile is of {given[0][0].bundle.place}: run `eetoolkit profile` of it on the device")
    if len(used) > 1:
        raise TuneError(
            f"profiles are of {' and of '.join(used)}: measure both bundles on one device, with one setting"
        )
    return Costs(ms, visits, source, here)


def _setting(profile: Profile) -> str:
    """Returns what two profiles must share, or their latencies do not compare."""
    providers = ", ".join(profile.providers)
    return f"{profile.machine.processor} (threads {profile.threads or 'default'}, {profile.backend}, {providers})"


def _source(profile: Profile) -> str:
    return f"profiles of {profile.machine.processor}, {profile.measured}"
