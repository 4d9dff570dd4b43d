"""The quantised bundle: its segments written anew, its golden samples made by them, proved and put in place."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from eetoolkit_exporters.emitting.files import SegmentFiles
from eetoolkit_exporters.emitting.graphs import read_model, write_segment
from eetoolkit_exporters.emitting.tolerance import rounding
from eetoolkit_exporters.quantizing.candidates import Candidates, Choice
from eetoolkit_exporters.quantizing.golden import between_processors, golden_of
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import read_golden, store_golden
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.still_true import unmeasured
from eetoolkit_runtime.plan.types import Manifest, Quantization, Segment
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE, verify

_MIXED = "rows run one by one: dynamic segments have one range for all rows of a batch"


def write_quantized(
    candidates: Candidates,
    choice: Choice,
    quantization: Quantization,
    output: str | os.PathLike[str],
    *,
    name: str | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Writes a choice among candidates as a bundle and returns it.

    Golden samples are made anew from the quantised graphs. Their tolerance is that of the coarsest rounding: four steps
    of eight bits, since a value between two steps may be rounded to either on another machine; and where some
    processors do not round at all, four times what that changes.

    Args:
        candidates: Of the source.
        choice: The method of each segment that is not float.
        quantization: What the manifest says of it.
        output: Where to write.
        name: The bundle's; None: its folder's.
        overwrite: Whether a bundle at `output` may be replaced.

    Raises:
        ExportError: The quantised bundle does not run.
        BundleError: `output` is in the way.
    """
    target = check_target(output, overwrite=overwrite)
    chosen = candidates.bundle(choice)
    plan, source = chosen.manifest, candidates.source.manifest
    mixed = "dynamic" in choice.values()
    samples = read_golden(candidates.source)
    if not samples:
        raise ExportError(f"{candidates.source.place} has no golden samples to make new ones of; export it with some")

    def make(folder: Path) -> Manifest:
        written = SegmentFiles(folder)
        tolerance = DEFAULT_TOLERANCE if source.golden is None else source.golden.tolerance
        segments: dict[str, Segment] = {}
        for segment_name, segment in plan.segments.items():
            if segment.model is None:
                segments[segment_name] = segment
                continue
            model = read_model(chosen, segment.model)
            tolerance = max(tolerance, rounding(model.graph))
            segments[segment_name] = write_segment(written, plan, segment_name, segment, model)
        found = golden_of(chosen, samples)
        golden, stored = store_golden(folder, found, max(tolerance, between_processors(chosen, found)))
        return msgspec.structs.replace(
            plan,
            name=name or target.stem,
            segments=written.settle(segments),
            files={**written.files, **stored},
            onnxruntime="{}.{}".format(*written.onnxruntime),
            golden=golden,
            batch=1 if mixed else plan.batch,
            notes=(*plan.notes, _MIXED) if mixed and plan.batch is None else plan.notes,
            tuning=unmeasured(source.tuning),
            quantization=msgspec.structs.replace(quantization, stale=False),  # nobody is to tune what is being made
        )

    def proof(bundle: Bundle) -> Manifest:
        report = verify(bundle)
        if not report.passed:
            raise ExportError(f"the quantised bundle answers otherwise when it is run again: {report.failures[0]}")
        return msgspec.structs.replace(bundle.manifest, quantization=quantization)

    return write_bundle(target, make, proof, overwrite=overwrite)
