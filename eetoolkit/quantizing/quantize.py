"""Quantising a bundle, read top to bottom: candidates, what they take, the choice, the bundle, what it gained and cost."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt
import onnxruntime as ort

from eetoolkit.quantizing.agreement import Compared, answers, compare
from eetoolkit.quantizing.choosing import Chosen, Worst, choose
from eetoolkit.quantizing.measuring import Costs, Form, Measured, Variant, measure
from eetoolkit.quantizing.report import QuantizationReport, SegmentChoice
from eetoolkit.quantizing.rows import Part, Parts, part_rows
from eetoolkit.tuning.collect import Progress
from eetoolkit.tuning.intervals import Interval, mean_of, ratio_in_turns
from eetoolkit.tuning.pruning import latencies
from eetoolkit.tuning.tune import tune as tune_bundle
from eetoolkit_exporters.quantizing.candidates import Candidates, make_candidates
from eetoolkit_exporters.quantizing.methods import Settings
from eetoolkit_exporters.quantizing.write import write_quantized
from eetoolkit_runtime.arguments import check_range, checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import ExportError, InputError, did_you_mean
from eetoolkit_runtime.plan.types import Activations, Method, Quantization
from eetoolkit_runtime.profiling.profile import Profile

Segments = Literal["all"] | Sequence[str] | Mapping[str, Method] | None
_TURNS_ROWS = 100
_PROFILED_ROWS = 256


@checked(ExportError)
def quantize(  # noqa: PLR0913 - what the choice depends on
    bundle: str | os.PathLike[str] | Bundle,
    inputs: Any,
    output: str | os.PathLike[str],
    labels: npt.ArrayLike | None = None,
    *,
    max_disagreement: float = 0.01,
    profile: Measured = None,
    weights: Literal["int8", "float16"] = "int8",
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
        inputs: Real rows, as `tune` takes them; None: none, which is enough for float16 alone.
        output: The new bundle's folder.
        labels: The right class of every row, for accuracies; needed to tune.
        max_disagreement: The share of rows that an exit may answer otherwise than before, 0 to 1.
        profile: Where segments must be faster: profiles of the float bundle and of a quantised one, from the device;
            or what measures a bundle there; None: on this machine.
        weights: `int8`; or `float16`: half the bytes on disk, computed in float32 as before.
        activations: What convolutions compute with: `uint8`, the fastest on x86 and ARM, or `int8`, for accelerators
            such as QNN.
        reduce_range: Whether weights have 7 bits, for x86 processors without VNNI, whose sums saturate else.
        segments: Which become int8: None: chosen; `all` that can; names; or methods by name, of which nothing is
            chosen.
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
        TuneError: Profiles of something else; see `tune` too.
        BundleError: It cannot be opened, or `output` is in the way.
    """
    check_range(InputError, "max_disagreement", max_disagreement, 0, 1)
    check_range(InputError, "seed", seed, 0, (1 << 32) - 1)
    target = check_target(output, overwrite=overwrite)
    source = load(bundle)
    _check_options(source, target, weights, activations, inputs, labels, tune=tune)
    asked = _asked(source, segments)
    check_full(source.path, source.manifest)
    tell: Progress = progress or (lambda _what, _done, _total: None)
    parts = None
    if inputs is not None:
        parts = part_rows(source, inputs, labels, max_disagreement=max_disagreement, tune=tune, seed=seed)
    rows = [] if parts is None else parts.calibrate.rows
    settings = Settings(activations=activations, reduce_range=reduce_range)
    with tempfile.TemporaryDirectory() as folder:
        ...
