"""Quantising a bundle, read top to bottom: candidates, what they take, the choice, the bundle, its figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy.typing as npt

from eetoolkit.quantizing.deciding import Task, as_asked, decide, take_costs
from eetoolkit.quantizing.figures import describe
from eetoolkit.quantizing.measuring import Given, measure_one, read_profiles
from eetoolkit.quantizing.report import QuantizationReport, Weights
from eetoolkit.quantizing.rows import Part, Parts, read_parts
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.goal import choose_goal
from eetoolkit.tuning.manifest import check_whole
from eetoolkit.tuning.tune import check_tunable
from eetoolkit.tuning.tune import tune as tune_bundle
from eetoolkit_exporters.quantizing.candidates import Candidates, Wanted, make_candidates
from eetoolkit_exporters.quantizing.methods import Settings
from eetoolkit_exporters.quantizing.write import write_quantized
from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import ExportError, InputError, did_you_mean
from eetoolkit_runtime.plan.types import MOST_EXACT, Activations, Method

Segments = Literal["all"] | Sequence[str] | Mapping[str, Method] | None
"""Which segments become int8: None: chosen; all; these; or these by these methods."""

_LEAST_BOUND = 1e-4
_NOTHING = Part((), None)
_NO_ROWS = Parts(_NOTHING, _NOTHING, _NOTHING, None)


@checked(ExportError)
def quantize(  # noqa: PLR0913 - what the choice depends on
    bundle: str | os.PathLike[str] | Bundle,
    inputs: Any,
    output: str | os.PathLike[str],
    labels: npt.ArrayLike | None = None,
    *,
    max_disagreement: float = 0.01,
    profile: Given = None,
    weights: Weights = "int8",
    activations: Activations = "uint8",
    reduce_range: bool = False,
    segments: Segments = None,
    tune: bool = False,
    max_accuracy_drop: float | None = None,
    seed: int = 0,
    seconds: float = 4.0,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> QuantizationReport:
    """Writes a smaller bundle at `output`, its segments in int8 where that is faster, and returns what it costs.

    A segment becomes int8 where it is faster so and every exit still answers as before, up to `max_disagreement`; the
    others stay float, and so do exits' last products, criteria, confidences and gates. The rows are split: ranges, the
    choice and the report's figures each have a part of their own. Nothing is written where nothing pays.

    Args:
        bundle: A `Bundle`, or its path, with float segments.
        inputs: Real rows, as `tune` takes them; None: none, which is enough for float16.
        output: The new bundle's folder.
        labels: The right class of every row, for accuracies; needed to tune.
        max_disagreement: The share of rows that an exit may answer otherwise than before, 0.0001 to 1.
        profile: Where segments must be faster: profiles of the float bundle and of quantised ones, from the device; or
            what measures a bundle there; None: on this machine.
        weights: `int8`; or `float16`: half the bytes on disk, computed in float32 as before.
        activations: What convolutions compute with: `uint8`, the fastest on x86 and ARM, or `int8`, for accelerators
            such as QNN.
        reduce_range: Whether weights have 7 bits, for x86 processors without VNNI, whose sums saturate else.
        segments: Which become int8: None: chosen; `all` that can; names; or methods by name. What is given is not
            chosen: neither latency nor disagreement keeps it float.
        tune: Whether to tune the new bundle's thresholds, by rows of their own.
        max_accuracy_drop: The goal of that; None: as `tune`.
        seed: Of the split of the rows.
        seconds: How long each profile may take on this machine.
        threads: As the `Runner`'s.
        overwrite: Whether a bundle at `output` may be replaced.
        progress: Is told (what, done, total).

    Raises:
        InputError: Rows that the bundle does not take, that lie in another range, or too few; it says how many.
        ExportError: It is quantised already, or has nothing that can be.
        TuneError: A device's half; profiles of something else; see `tune` too.
        BundleError: It cannot be opened, or `output` is in the way.
    """
    check_range(InputError, "max_disagreement", max_disagreement, _LEAST_BOUND, 1)
    if max_accuracy_drop is not None and not tune:
        raise InputError("max_accuracy_drop is what tuning may cost; pass tune=True too")
    check_range(InputError, "seed", seed, 0, MOST_EXACT)
    target = check_target(output, overwrite=overwrite)
    source = load(bundle)
    check_whole(source.manifest, "quantised", "quantise")
    if source.lies_at(target):
        raise ExportError(f"{output} is the bundle that is quantised; choose another name for the new one")
    check_full(source.path, source.manifest)
    if tune:
        check_tunable(source.manifest)
        choose_goal(accuracy=True, max_accuracy_drop=max_accuracy_drop)
    measured = read_profiles(profile)
    tell: Progress = progress or (lambda _what, _done, _total: None)
    parts = _NO_ROWS
    if inputs is not None or tune or weights == "int8":
        parts = read_parts(
            source, inputs, labels, max_disagreement=max_disagreement, tune=tune, seed=seed, progress=tell
        )
    settings = Settings(activations=activations, reduce_range=reduce_range)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "candidates")
        made.mkdir()
        wanted = _wanted(source, segments, weights)
        candidates = make_candidates(source, parts.calibrate.rows, made, settings, wanted, tell)
        if not candidates.by_method:
            raise ExportError(f"nothing in {source.place} can be quantised: {_failures(candidates)}")
        task = Task(source, parts, candidates, weights, max_disagreement, threads, tell)
        costs = None
        if weights == "int8":
            costs = take_costs(task, Path(folder), measured, seconds)
        if segments is None and costs is not None:
            decided = decide(task, costs)
        else:
            decided = as_asked(candidates, None if segments in (None, "all") else segments, costs)
        written = None
        if decided.choice:
            written = write_quantized(
                candidates, decided.choice, task.quantization(decided.choice), target, overwrite=overwrite
            )
        report = describe(task, decided, written)
    if written is not None and parts.tune is not None:
        now = measure_one(written, parts.choose, measured, seconds=seconds, threads=threads, tell=tell)
        return _tuned(
            report, written, parts.tune, max_accuracy_drop=max_accuracy_drop, profile=now, seed=seed, threads=threads,
            progress=tell,
        )  # fmt: skip
    return report


def _wanted(source: Bundle, segments: Segments, weights: str) -> Wanted:
    """Returns which of the methods that apply to a segment it is to have a candidate by.

    Raises:
        InputError: No such segment, or no such method of it.
    """
    half: tuple[Method, ...] = ("float16",) if weights == "float16" else ()
    if segments is None or segments == "all":
        most = None if segments is None else 1
        return lambda _name, methods: (half or methods)[:most]
    known = [name for name, segment in source.manifest.segments.items() if segment.model is not None]
    if not segments:
        raise InputError(f"segments is empty; there are {', '.join(known)}")
    for name in segments:
        if name not in known:
            raise InputError(f"no segment {name!r}; there are {', '.join(known)}{did_you_mean(name, known)}")
    chosen = dict(segments) if isinstance(segments, Mapping) else dict.fromkeys(segments)

    def wanted(name: str, methods: Sequence[Method]) -> Sequence[Method]:
        if name not in chosen:
            return ()
        methods = half or methods
        method = chosen[name] or next(iter(methods), None)
        if method is None or method not in methods:
            can = f"; it can be {' or '.join(methods)}" if methods else ": nothing in it can be quantised"
            raise InputError(f"segment {name!r} cannot be {method or 'int8'}{can}")
        return (method,)

    return wanted


def _failures(candidates: Candidates) -> str:
    return "; ".join(f"{name}: {why}" for name, why in candidates.failed.items())


def _tuned(report: QuantizationReport, bundle: Bundle, rows: Part, **options: Any) -> QuantizationReport:
    """Tunes the new bundle on rows of their own, writes what pays, and returns the report with what was found."""
    pairs = list(zip(rows.rows, [] if rows.labels is None else rows.labels, strict=True))
    report = msgspec.structs.replace(report, tuning=tune_bundle(bundle, pairs, **options))
    if report.tuning is None or not report.tuned:
        return report
    return msgspec.structs.replace(report, after_bytes=report.tuning.apply().size_bytes)
