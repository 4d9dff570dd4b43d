"""A profile, and two beside each other, as tables and a chart on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eetoolkit.cli import terminal
from eetoolkit.cli.table import Table, print_pairs

if TYPE_CHECKING:
    from eetoolkit.showing.profile_picture import Bar
    from eetoolkit_runtime.profiling.comparison import Comparison, Pair
    from eetoolkit_runtime.profiling.costs import Added, OperatorCost, WholeCost
    from eetoolkit_runtime.profiling.latency import Latency
    from eetoolkit_runtime.profiling.profile import Profile

_CHART_COLUMNS, _NARROW_CHART = 48, 10
_DIFFERENT = 1e-3  # the whole network's outputs, relative: beyond rounding
_OPERATORS_SHOWN = 4
_RUNS_FOR_P99 = 100  # with fewer, the slowest run is all that it could say


def print_profile(found: Profile) -> None:
    """Prints a profile: where and how it was measured, segments, exits, operators if traced, and the chart."""
    print_pairs(_header(found))
    terminal.say("")
    _print_segments(found)
    terminal.say("")
    _print_exits(found)
    if any(cost.operators for cost in found.segments.values()):
        terminal.say("")
        _print_operators(found)
    terminal.say("")
    _print_chart(found)


def print_comparison(comparison: Comparison) -> None:
    """Prints what differs between two profiles, and the ratios of their latencies."""
    if comparison.changes:
        table = Table("what differs", "a", "b", prose=("a", "b"))
        for change in comparison.changes:
            table.add(change.what, change.a, change.b)
        table.print()
    else:
        terminal.say("the same bundle, machine and settings")
    terminal.say("")
    table = Table("latency", "a", "b", "b / a", "", right=("a", "b", "b / a"))
    _add_pair(table, "a call, mean", comparison.expected)
    _add_pair(table, "full path", comparison.full_path)
    for kind, pairs in (("exit", comparison.exits), ("segment", comparison.segments)):
        for name, pair in pairs.items():
            _add_pair(table, f"{kind} {name}", pair)
    table.print()
    for which, names in (("a", comparison.only_a), ("b", comparison.only_b)):
        if names:
            terminal.say(f"only in {which}: {', '.join(names)}")


def _add_pair(table: Table, what: str, pair: Pair) -> None:
    ratio = "-" if pair.ratio is None else f"{pair.ratio:.2f}"
    table.add(what, _ms(pair.a_ms), _ms(pair.b_ms), ratio, "within the spread" if pair.within_spread else "")


def _header(found: Profile) -> Iterator[tuple[str, str]]:
    from eetoolkit_runtime.printable import spell_size

    machine = found.machine
    yield "machine", ", ".join(filter(None, (machine.processor, f"{machine.cores} cores", machine.system)))
    state = [f"{found.before.clock_mhz:,.0f} MHz"] if found.before.clock_mhz is not None else []
    state += [f"governor {found.before.governor}"] if found.before.governor else []
    if found.after.temperature_c is not None and found.before.temperature_c is not None:
        state.append(f"{found.before.temperature_c:.0f} to {found.after.temperature_c:.0f} degrees Celsius")
    state += [f"paused {found.cooled_s:.0f} s to cool down"] if found.cooled_s else []
    if state:
        yield "clock", ", ".join(state)
    if found.before.load is not None and found.after.load is not None:
        yield "load", f"{found.before.load:.1f} before, {found.after.load:.1f} after, in the mean of a minute"
    if found.after.throttled:
        yield "throttled", "yes: heat or a weak power supply has lowered the clock"
    threads = "one per core" if found.threads is None else str(found.threads)
    yield "settings", f"threads {threads}, spin {found.spin or '-'}, pool {found.pool or '-'}"
    libraries = f"onnxruntime {machine.onnxruntime or '-'} on {', '.join(found.providers)}"
    yield "runtime", f"{found.backend}, {libraries}{f', numpy {machine.numpy}' if machine.numpy else ''}"
    steady = "" if found.steady else ", never steady"
    timed = f", {found.timed} of them timed" if found.timed < found.rows else ""
    inputs = "1 input" if found.rows == 1 else f"{found.rows} inputs"
    rounds = f"{inputs}{timed}, {found.rounds} rounds after {found.warmup_rounds} of warm-up"
    yield "measured", f"{found.measured}, {rounds}{steady}"
    for name, latency in (("a call", found.expected), ("full path", found.full_path)):
        if latency is not None:
            yield name, _spread(latency)
    if found.whole is not None:
        yield "whole", f"{found.whole.file}: {_spread(found.whole.latency)}"
        yield speed_up(found.whole)
    yield "overhead", f"{found.overhead_us:.1f} us a segment"
    if found.accuracy is not None:
        yield "accuracy", f"{found.accuracy:.1%}"
    if found.memory.opened is not None and found.memory.before is not None:
        yield "memory", f"{spell_size(max(0, found.memory.opened - found.memory.before))} more with all segments open"
    yield from () if found.link is None else ((f"link behind {found.link.at}", f"{found.link} (medians)"),)
    if found.energy is not None:
        energy = found.energy
        yield (
            "energy",
            (
                f"{energy.call_mj:.3g} mJ a call, {energy.full_path_mj:.3g} mJ a full path; {energy.idle_w:.3g} W idle "
                f"({energy.meter}, all that runs on the machine)"
            ),
        )
    for note in (found.gaps, found.noise):
        if note is not None:
            yield "note", note


def _print_segments(found: Profile) -> None:
    names = ("parameters", "multiply-adds", "bytes", "load", "p50", "p90", "p99", "spread", "outliers", "visits")
    table = Table("segment", *names, right=names)
    for name, cost in found.segments.items():
        latency = cost.latency
        adds = "-" if cost.multiply_adds is None else f"{cost.multiply_adds:,}"
        table.add(
            name, f"{cost.parameters:,}", adds, f"{cost.size_bytes:,}", _ms(cost.load_ms), *_percentiles(latency),
            "-" if latency is None else _ms(latency.spread_ms),
            "-" if latency is None else f"{latency.outliers} of {latency.runs}", f"{cost.visits:.2f}",
        )  # fmt: skip
    table.print()


def _print_exits(found: Profile) -> None:
    names = ("share", "right", "if always here", "p50", "p90", "p99", "of mean call", "decision", "passing")
    table = Table("exit", *names, right=names)
    for name, cost in found.exits.items():
        table.add(
            name, f"{cost.share:.1%}", _percent(cost.accuracy), _percent(cost.accuracy_if_always),
            *_percentiles(cost.latency), _ms(cost.expected_ms), _added(cost.decision), _added(cost.passing),
        )  # fmt: skip
    table.print()


def _print_operators(found: Profile) -> None:
    prose = ("operators, by what they take", "costliest node")
    table = Table("segment", "traced", *prose, right=("traced",), prose=prose)
    for name, cost in found.segments.items():
        if cost.operators:
            node = cost.operators[0]
            costliest = f"{node.node} ({node.operator}) {node.p50_us:.0f} us"
            table.add(name, _ms(cost.traced_ms), _by_type(cost.operators), costliest)
    table.print()


def _by_type(operators: Sequence[OperatorCost]) -> str:
    shares: dict[str, list[float]] = {}
    for cost in operators:
        shares.setdefault(cost.operator, []).append(cost.share)
    ranked = sorted(shares.items(), key=lambda item: -sum(item[1]))
    shown = [f"{len(each)} {operator} {sum(each):.0%}" for operator, each in ranked[:_OPERATORS_SHOWN]]
    return ", ".join(shown) + (f", {len(ranked) - len(shown)} more" if len(ranked) > len(shown) else "")


def _print_chart(found: Profile) -> None:
    from eetoolkit.showing.profile_picture import bars, spell_exit

    all_ = bars(found)
    if not all_:
        return
    end_ms = all_[-1].start_ms + all_[-1].full_ms
    wide = _chart_columns(all_)
    table = Table("full path", f"0 to {_ms(end_ms)}", "adds", "answers there", right=("adds",))
    for bar in all_:
        before, run, saved = (round(wide * ms / end_ms) for ms in (
            bar.start_ms, bar.start_ms + bar.call_ms, bar.start_ms + bar.full_ms
        ))  # fmt: skip
        drawn = " " * before + "█" * (run - before) + "░" * (saved - run)
        table.add(bar.segment, (drawn if drawn.strip() else " " * before + "▏").ljust(wide),
                      _ms(bar.full_ms), spell_exit(bar))  # fmt: skip
    table.print()
    print_pairs([("", "█ in the mean call, ░ only in a full path; robust means")])


def _chart_columns(all_: Sequence[Bar]) -> int:
    """Returns how wide the chart may be: beside all that is told of a bar, or beside its name; little in a record."""
    from eetoolkit.showing.profile_picture import spell_exit

    columns = terminal.columns()
    if columns is None:
        return _CHART_COLUMNS
    name, adds, answers = (max(map(len, each)) + 2 for each in (
        ["full path", *(bar.segment for bar in all_)],
        [_ms(bar.full_ms) for bar in all_],
        ["answers there", *map(spell_exit, all_)],
    ))  # fmt: skip
    room, alone = columns - name - adds - answers, columns - name
    if room < _NARROW_CHART and name + answers - 2 <= columns:
        room = alone
    return min(_CHART_COLUMNS, max(_NARROW_CHART, room))


def _percentiles(latency: Latency | None) -> tuple[str, str, str]:
    if latency is None:
        return "-", "-", "-"
    p99 = _ms(latency.p99_ms) if latency.runs >= _RUNS_FOR_P99 else "-"
    return _ms(latency.p50_ms), _ms(latency.p90_ms), p99


def speed_up(whole: WholeCost) -> tuple[str, str]:
    """Returns how much faster the bundle is than its whole network; of another network there is no such figure."""
    if whole.difference is not None and whole.difference <= _DIFFERENT:
        return "speed-up", f"{1 / whole.ratio:.2f} times in the mean, full path / whole {whole.full_path_ratio:.2f}"
    by = (
        "no output has the shape"
        if whole.difference is None
        else f"its outputs differ by {whole.difference:.2g} from those"
    )
    return "speed-up", f"none: {whole.file} is another network ({by} of the last exit); pass the one that was exported"


def _spread(latency: Latency) -> str:
    p50, p90, p99 = _percentiles(latency)
    return f"mean {_ms(latency.mean_ms)}, robust {_ms(latency.robust_ms)}, p50 {p50}, p90 {p90}, p99 {p99}"


def _ms(value: float | None) -> str:
    from eetoolkit.showing.profile_picture import spell_ms

    return "-" if value is None else spell_ms(value)


def _added(added: Added | None) -> str:
    return "-" if added is None else f"{added.added_us:.1f} ± {added.error_us:.1f} us"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
