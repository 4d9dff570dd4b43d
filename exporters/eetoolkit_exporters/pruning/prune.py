"""Taking exits out of a bundle: what lay between two of the others is one graph again."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from eetoolkit_exporters.cutting.work import count_work
from eetoolkit_exporters.emitting.files import SegmentFiles
from eetoolkit_exporters.emitting.graphs import write_segment
from eetoolkit_exporters.pruning.join import Part, join, trim
from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.golden import Sample, read_golden, store_golden
from eetoolkit_runtime.bundle.integrity import check_full
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import ExportError, InputError
from eetoolkit_runtime.plan.flow import chains, live_after, live_before, without_exits
from eetoolkit_runtime.plan.names import plan_name
from eetoolkit_runtime.plan.restricted import restricted
from eetoolkit_runtime.plan.still_true import quantization_of, split_of, unmeasured
from eetoolkit_runtime.plan.types import Manifest, Segment, Tuning
from eetoolkit_runtime.running.decision import known_exit
from eetoolkit_runtime.running.inputs import BATCH
from eetoolkit_runtime.verify import verify


@checked(ExportError)
def prune(
    bundle: str | os.PathLike[str] | Bundle,
    exits: Collection[str],
    output: str | os.PathLike[str],
    *,
    samples: Sequence[Sample] | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Returns a new bundle without some exits: their heads are gone, and segments between two others are one graph.

    It answers as the bundle does with these exits disabled. It has no profile, and what its manifest says of a tuning
    is dropped where one of them could fire: both were measured with them. What a later exit's criterion takes from a
    head stays. The new bundle is run on the golden samples before it is put in place; nothing is written where it does
    not give them.

    Args:
        bundle: A `Bundle` or its path.
        exits: Names; not of an exit that ends the plan. None of them: the new bundle has them all.
        output: Where to write.
        samples: What every exit gives; None: the bundle's golden samples.
        overwrite: Whether a bundle at `output` may be replaced.

    Raises:
        InputError: No such exit, or one that ends the plan.
        ExportError: A bundle without samples, or whose graphs cannot be one.
        BundleError: The bundle cannot be opened, or `output` is in the way.
    """
    source = load(bundle)
    plan = source.manifest
    exits = [plan_name(name, plan.titles) for name in exits]
    _check_exits(plan, exits)
    target = check_target(output, overwrite=overwrite)
    check_full(source.path, plan)
    shortened = [_without(sample, exits) for sample in (read_golden(source) if samples is None else samples)]
    if not shortened or plan.golden is None:
        raise ExportError(f"{source.place} has no golden samples to verify a pruned bundle by; export it with some")
    tolerance = plan.golden.tolerance
    remaining = without_exits(plan, exits)
    joined = {chain[0]: chain for chain in chains(remaining)}
    parts = _trimmed(plan, {name: join(source, remaining, chain) for name, chain in joined.items()})
    plan = restricted(plan, {name: part.segment for name, part in parts.items()})

    def make(folder: Path) -> Manifest:
        golden, stored = store_golden(folder, shortened, tolerance)
        written = SegmentFiles(folder)
        symbols = _symbols(plan, shortened[0])
        segments = {name: _write(name, part, written, plan, symbols) for name, part in parts.items()}
        pruned = msgspec.structs.replace(plan, segments=written.settle(segments))
        return msgspec.structs.replace(
            pruned,
            files={**written.files, **stored},
            onnxruntime="{}.{}".format(*written.onnxruntime),
            golden=golden,
            notes=(*plan.notes, f"pruned: {', '.join(exits)}") if exits else plan.notes,
            profile=None,
            tuning=_tuning(source.manifest, plan),
            quantization=quantization_of(pruned, source.manifest.quantization, joined),
            split=split_of(pruned, source.manifest),
        )

    return write_bundle(target, make, _proved, overwrite=overwrite)


def _check_exits(plan: Manifest, exits: Collection[str]) -> None:
    for name in exits:
        known_exit(plan.exits, name)
    if plan.split is not None and plan.split.local in exits:
        raise InputError(f"exit {plan.split.local!r} stands in where the server gives no answer, and cannot be pruned")
    for segment in plan.segments.values():
        if segment.exit is not None and segment.exit.name in exits and segment.exit.ends:
            raise InputError(f"exit {segment.exit.name!r} ends the plan and cannot be pruned; `truncate` moves the end")


def _trimmed(plan: Manifest, parts: Mapping[str, Part]) -> dict[str, Part]:
    """Returns the parts without what no part looks at, to a fixed point: a head that is gone reads nothing either."""
    found = dict(parts)
    while True:
        segments = {name: part.segment for name, part in found.items()}
        live = live_before(msgspec.structs.replace(plan, segments=segments))
        found = {name: trim(part, live_after(part.segment, live)) for name, part in found.items()}
        if segments == {name: part.segment for name, part in found.items()}:
            return found


def _write(name: str, part: Part, written: SegmentFiles, plan: Manifest, symbols: Mapping[str, int]) -> Segment:
    if part.model is None:
        return msgspec.structs.replace(part.segment, model=None, weights=(), work=None)
    graph = part.model.graph
    work = count_work(graph, graph.initializers.values(), symbols)
    return msgspec.structs.replace(write_segment(written, plan, name, part.segment, part.model), work=work)


def _symbols(plan: Manifest, sample: Sample) -> dict[str, int]:
    """Returns the sizes of the dynamic dimensions in a sample, one row."""
    sizes = {
        dim: size
        for spec in plan.inputs
        for dim, size in zip(spec.shape, sample.inputs[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }
    return sizes | ({BATCH: 1} if BATCH in sizes else {})


def _without(sample: Sample, exits: Collection[str]) -> Sample:
    return Sample(sample.inputs, tuple(visit for visit in sample.visits if visit.exit not in exits))


def _tuning(plan: Manifest, pruned: Manifest) -> Tuning | None:
    """Returns what the plan says of its tuning, as far as the pruned one has its exits and constants."""
    gone = [exit_ for name, exit_ in plan.exits.items() if name not in pruned.exits]
    # Where an exit is gone that could fire, its rows answer elsewhere: what was measured and promised was with it.
    tuning = unmeasured(plan.tuning) if any(exit_.enabled for exit_ in gone) else plan.tuning
    if tuning is None:
        return None
    return msgspec.structs.replace(
        tuning,
        thresholds={name: chosen for name, chosen in tuning.thresholds.items() if name in pruned.exits},
        exits_before={name: before for name, before in tuning.exits_before.items() if name in pruned.exits},
        constants_before={name: values for name, values in tuning.constants_before.items() if name in pruned.constants},
    )


def _proved(bundle: Bundle) -> Manifest:
    report = verify(bundle)
    if not report.passed:
        raise ExportError(f"the pruned bundle answers otherwise: {report.failures[0]}; nothing was written")
    return bundle.manifest
