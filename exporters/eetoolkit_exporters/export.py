"""From a trained network to a bundle: the pipeline, read top to bottom."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import msgspec
import onnxruntime as ort
import torch

from eetoolkit_exporters.capturing.capture import Network, capture, check_deterministic, check_repeatable
from eetoolkit_exporters.capturing.cascade import CascadeSource, open_source
from eetoolkit_exporters.capturing.dynamic_shapes import DynamicShapes
from eetoolkit_exporters.capturing.onnx_source import OnnxSource
from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.capturing.source import LOGITS, ExitSpec, ModelSource, choose_exits
from eetoolkit_exporters.capturing.torch_source import TorchSource
from eetoolkit_exporters.criteria.confidences import add_confidences
from eetoolkit_exporters.criteria.facts import facts
from eetoolkit_exporters.criteria.reference import class_output
from eetoolkit_exporters.criteria.remarks import remarks, single_scores
from eetoolkit_exporters.criteria.resolve import (
    CriterionSpec,
    choose_criteria,
    default_threshold,
    exits_before,
    stored_threshold,
)
from eetoolkit_exporters.criteria.stateless import class_count
from eetoolkit_exporters.cutting.control_flow import Lower, Lowering, check_loops_end, choose
from eetoolkit_exporters.cutting.cut import cut, graph_of, sort_exits
from eetoolkit_exporters.cutting.dequantizing import dequantize_apart
from eetoolkit_exporters.cutting.fixed_shapes import shape_nodes
from eetoolkit_exporters.cutting.merge import merge
from eetoolkit_exporters.cutting.rows import against_rows
from eetoolkit_exporters.cutting.segments import CutSegment, segments_of
from eetoolkit_exporters.emitting.emit import Details, dimensions, emit
from eetoolkit_exporters.emitting.prove import prove
from eetoolkit_exporters.emitting.samples import golden_samples, meet, sample_rows
from eetoolkit_exporters.emitting.tolerance import check_tolerance, measured, rounding
from eetoolkit_exporters.gating.gates import make_gates
from eetoolkit_exporters.graph import copy_of, subgraphs
from eetoolkit_runtime.arguments import checked, is_number
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.rewriting import write_bundle
from eetoolkit_runtime.bundle.store import check_target
from eetoolkit_runtime.errors import ExportError, did_you_mean
from eetoolkit_runtime.log import log
from eetoolkit_runtime.plan.types import Criterion, Fallback, Preprocess, Threshold
from eetoolkit_runtime.plan.validate import preprocess_problem
from eetoolkit_runtime.running.inputs import BATCH, axes_of_rows
from eetoolkit_runtime.running.scores import LABEL

_LOOSE = 0.1  # of the largest value: a tolerance by which golden samples show little

ThresholdSpec = Threshold | Mapping[str, Threshold] | None


_OWN_WORDS = (
    "exits", "criterion", "threshold", "labels", "preprocess", "lower_control_flow", "max_loop_steps", "fallback",
    "tolerance",
)  # fmt: skip


@checked(ExportError, but=_OWN_WORDS)
def export(  # noqa: PLR0913 - the choices of one command, each with a default
    model: Any,
    example_inputs: Any,
    output: str | os.PathLike[str],
    *,
    exits: ExitSpec | None = None,
    criterion: CriterionSpec = "max_prob",
    threshold: ThresholdSpec = None,
    dynamic_batch: bool = True,
    dynamic_shapes: DynamicShapes = None,
    input_names: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    preprocess: Mapping[str, Mapping[str, Any]] | None = None,
    golden_inputs: Any = None,
    lower_control_flow: Lower = True,
    max_loop_steps: int | None = None,
    min_exit: str | None = None,
    fallback: Fallback = "last",
    tolerance: float | None = None,
    name: str | None = None,
    overwrite: bool = False,
    warn: Callable[[str], object] | None = None,
) -> Bundle:
    """Compiles a trained network to a bundle at `output` and returns it.

    The bundle is run on its golden samples before it is put in place; nothing is written where it does not reproduce
    them.

    Args:
        model: A `torch.nn.Module` in evaluation mode whose `forward` returns its exits; the path of an `.onnx` file
            (opset 13 and up) with several outputs; or a list of either, small to large, as a cascade.
        example_inputs: One example of every input: a tensor or array, a tuple, or a mapping by name. For an `.onnx`
            file with float inputs None draws random ones.
        output: The bundle's folder.
        exits: None: every output, in order; a list of names; or for each exit its output or outputs by name.
        criterion: How confidence is computed: one for all exits, or one per exit; a kind (`max_prob`, `entropy`,
            `margin`, `patience`, `vote`, `mean_ensemble`, `geometric_ensemble`, `learned`), a `Criterion` with options
            (`all_of`, `any_of` and `at_least` have members), or a torch function from the exit's outputs to a number
            per row.
        threshold: When an exit fires; one for all exits or one per exit; None: 0.9, or 2 for patience, or all, one or
            n of the members.
        dynamic_batch: Whether the number of rows may vary. They lie along the first dimension of every input, or along
            another one if that proves to count them, as in a recurrent state (layers, rows, width).
        dynamic_shapes: Further dynamic dimensions: for an input's name, {axis: symbol}; or any form that `torch.export`
            takes. The symbol `batch` says where rows lie, whatever else the network lets one think.
        input_names: What the inputs are called; None: as `forward` calls them.
        labels: The classes' names, in order; two for an exit of one score a row.
        preprocess: For an input's name, how an image becomes that input: `layout`, `resize` (height, width), `scale`,
            `mean`, `std`.
        golden_inputs: Real inputs, a few rows, for the golden samples; None: the example.
        lower_control_flow: Whether `If`, `Loop` and blended gates become gates of the plan: where a segment of its own
            costs next to nothing, while smaller ones stay inside a segment, blended ones as an `If` (True); always
            (`"always"`); or never, all of it as it was written (False). `notes` of the bundle say which did.
        max_loop_steps: The bound of loops whose own bound cannot be read from the graph; without one they stay inside
            a segment.
        min_exit: The first exit that may fire; earlier ones are disabled.
        fallback: Which exit answers where none fired: `last`, or the `most_confident` one (SDN).
        tolerance: By how much outputs and confidences may differ from the network's, on the golden samples and on
            every device: absolutely, relative to the largest magnitude above 1. None: 1e-4, in half precision ten
            machine epsilons (1e-2); where values are quantised four steps (3e-2 of 8 bits), or four times what
            onnxruntime's optimisations change on the golden samples.
        name: The bundle's name; None: that of its folder.
        overwrite: Whether a bundle at `output` may be replaced.
        warn: Is told what is allowed and may be a mistake, a sentence each; all of it is among the bundle's `notes`.

    Raises:
        ExportError: A network that cannot become a bundle; nothing was written.
        BundleError: `output` is in the way.
    """
    target = check_target(output, overwrite=overwrite)
    _check_options(lower_control_flow, max_loop_steps, fallback)
    asked = check_tolerance(tolerance)
    source = open_source(model, example_inputs, input_names)
    chosen = choose_exits(source, exits)
    network = capture(source, chosen, dynamic_batch=dynamic_batch, dynamic_shapes=dynamic_shapes)
    check_deterministic(network.graph)
    check_loops_end(network.graph)
    usual = rounding(network.graph)
    check_repeatable(source, usual)
    separate_exits(network)
    sort_exits(network)
    order = list(dict.fromkeys(exit_.name for exit_ in network.exits))
    log("info", "captured a graph of %s nodes, exits %s", len(network.graph), ", ".join(order))
    given = choose_criteria(network.exits, criterion)
    rows = sample_rows(source, _row_axes(network), golden_inputs)
    met = [meet(source, row, chosen, order) for row in rows]
    log("info", "sample rows run through the network: %s", len(rows))
    known = facts(network, given, met, usual)
    criteria = add_confidences(network, given)
    thresholds = _thresholds(criteria, threshold) | dict.fromkeys(exits_before(order, min_exit), "never")
    usual = max(usual, measured(network, criteria, rows))
    compiled = compile_plan(network, source.inputs, lower=lower_control_flow, max_loop_steps=max_loop_steps)
    log("info", "cut the graph into the segments %s", ", ".join(segment.name for segment in compiled.segments))
    doubts = [*remarks(known, thresholds), *_without_a_choice(compiled.segments), *_loose(usual, asked)]
    samples = golden_samples(source, rows, met, given, usual)
    details = Details(
        name=name or target.stem,
        created_with=_provenance(source, network),
        criteria=criteria,
        thresholds=thresholds,
        tolerance=usual if asked is None else asked,
        fallback=fallback,
        rows_together=compiled.rows_together,
        notes=(*compiled.notes, *single_scores(known), *doubts),
        labels=_labels(labels),
        preprocess=_preprocess(source, network, preprocess),
    )
    _check_labels(network, criteria, details.labels)
    bundle = write_bundle(
        target,
        lambda folder: emit(network, compiled.segments, samples, source.inputs, details, folder),
        lambda staged: prove(staged, compiled.segments),
        overwrite=overwrite,
    )
    log("info", "wrote and proved the bundle %s", bundle)
    if warn is not None:
        for doubt in doubts:
            warn(doubt)
    return bundle


@dataclass(frozen=True)
class Compiled:
    """A network as segments, what is to say about them, and whether the rows of a batch may run together."""

    segments: list[CutSegment]
    notes: tuple[str, ...]
    rows_together: bool


def compile_plan(
    network: Network,
    example: Mapping[str, Array],
    *,
    lower: Lower = True,
    max_loop_steps: int | None = None,
    duplicate_tails: bool = True,
) -> Compiled:
    """Returns the network, whose exits have their confidences and are in order, as segments."""
    symbols = dimensions(network, example)
    blended = make_gates(network, lower, symbols)
    marked = {graph_of(exit_, network) for exit_ in network.exits} - {network.graph}
    lowering = choose(network.graph, lower, max_loop_steps, symbols, marked)
    _check_marked(network, lowering)
    dequantize_apart(network)
    start, copies = merge(cut(network, lowering.nodes), network.graph, duplicate_tails=duplicate_tails)
    segments = segments_of(start, network.graph, shape_nodes(network.graph))
    reason = against_rows(network.graph, segments)
    notes = [*lowering.notes, *blended]
    if copies:
        notes.append(f"tail duplication: {copies} copies of small joins, so that the common path runs fewer segments")
    if reason is not None and BATCH in {str(dim) for value in network.graph.inputs for dim in value.shape or ()}:
        notes.append(f"rows run one by one: {reason}")
    return Compiled(segments, tuple(notes), reason is None)


def _check_marked(network: Network, lowering: Lowering) -> None:
    """Refuses an exit in a branch or a loop that stays inside a segment, which has no way to answer there.

    Raises:
        ExportError: Names it, and why its branch or loop stays.
    """
    owners = {inner: node for node in network.graph.all_nodes() for inner in subgraphs(node)}
    for exit_ in network.exits:
        graph = graph_of(exit_, network)
        while graph in owners:
            node = owners[graph]
            if node not in lowering.nodes:
                place = f"{node.op_type} {node.outputs[0].name!r}"
                why = next((note for note in lowering.notes if note.startswith(f"{place} stays")), f"{place} stays")
                raise ExportError(
                    f"exit {exit_.name!r} can answer only where a plan goes into its loop or branch: {why}"
                )
            graph = node.graph  # type: ignore[assignment]


def _check_options(lower: Lower, max_loop_steps: int | None, fallback: Fallback) -> None:
    if lower not in (True, False, "always"):
        raise ExportError(f"lower_control_flow is {lower!r}, expected True, False or 'always'")
    if max_loop_steps is not None and not (isinstance(max_loop_steps, int) and max_loop_steps > 0):
        raise ExportError(f"max_loop_steps is {max_loop_steps!r}, expected a number above 0")
    if fallback not in ("last", "most_confident"):
        raise ExportError(f"fallback is {fallback!r}, expected 'last' or 'most_confident'")


def separate_exits(network: Network) -> None:
    """Gives an exit that is an input itself a node of its own, and refuses one that is a constant.

    Raises:
        ExportError: An exit that is not a function of the input.
    """
    for exit_ in network.exits:
        for output, value in exit_.outputs.items():
            if value.producer() is not None:
                continue
            if not value.is_graph_input():
                raise ExportError(f"exit {exit_.name!r} is not a function of the input: {output!r} is a constant")
            node = copy_of(value, f"{exit_.name}_{output}", network.graph.opset_imports.get("", 20))
            network.graph.append(node)
            exit_.outputs[output] = node.outputs[0]


def _thresholds(criteria: Mapping[str, Criterion], threshold: ThresholdSpec) -> dict[str, Threshold]:
    given = threshold if isinstance(threshold, Mapping) else dict.fromkeys(criteria, threshold)
    if unknown := set(given) - set(criteria):
        meant = did_you_mean(min(unknown), criteria)
        raise ExportError(f"threshold names {sorted(unknown)}; the exits are {', '.join(criteria)}{meant}")
    found: dict[str, Threshold] = {}
    for name, criterion in criteria.items():
        value = given.get(name)
        if value == "never":
            found[name] = "never"
        elif value is None:
            found[name] = stored_threshold(criterion, default_threshold(criterion))
        elif is_number(value) and math.isfinite(value):
            found[name] = stored_threshold(criterion, float(value))
        else:
            raise ExportError(f"exit {name!r}: threshold is {value!r}, expected a finite number, or 'never'")
    return found


def _without_a_choice(segments: Sequence[CutSegment]) -> Iterator[str]:
    """Yields that there is nothing in a network that a row could leave out."""
    exits = {segment.exit.name for segment in segments if segment.exit is not None}
    dynamic = any(segment.on is not None or any(map(subgraphs, segment.nodes)) for segment in segments)
    if len(exits) == 1 and not dynamic:
        yield "the network has one exit, so every row runs all of it; ee.attach_exits gives a torch network more"


def _loose(usual: float, asked: float | None) -> Iterator[str]:
    """Yields that golden samples show little."""
    if asked is None and usual > _LOOSE:
        yield (
            f"the golden samples agree to {usual:.2g} only: onnxruntime's optimisations change a quantised network "
            "that much; pass tolerance=SIZE (--tolerance SIZE) for another bound"
        )


def _labels(labels: Sequence[str] | None) -> tuple[str, ...] | None:
    if isinstance(labels, str):
        raise ExportError(f"labels is the string {labels!r}, expected a list of names")
    if not isinstance(labels, Iterable | None):
        raise ExportError(f"labels is {labels!r}, expected a list of names")
    return None if labels is None else tuple(map(str, labels))


def _check_labels(network: Network, criteria: Mapping[str, Criterion], labels: tuple[str, ...] | None) -> None:
    for exit_ in network.exits if labels is not None else ():
        criterion = criteria[exit_.name]
        if criterion.kind == "custom" or (criterion.members and LOGITS not in exit_.outputs):
            continue  # nothing says which output holds the classes
        names = [name for name in exit_.outputs if name != LABEL]
        classes = class_count(exit_.outputs[class_output(criterion, names)], criterion)
        if labels is not None and classes not in (None, len(labels)):
            raise ExportError(f"got {len(labels)} labels, but exit {exit_.name!r} has {classes} classes")


def _preprocess(
    source: ModelSource, network: Network, preprocess: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Preprocess]:
    found: dict[str, Preprocess] = {}
    if not isinstance(preprocess, Mapping | None):
        raise ExportError(f"preprocess is {preprocess!r}, expected {{input: {{'layout': ..., 'resize': ...}}}}")
    shapes = {
        str(value.name): dims_of(value.shape) for value in network.graph.inputs if value.name not in network.constants
    }
    for name, options in (preprocess or {}).items():
        if name not in shapes:
            raise ExportError(f"preprocess names {name!r}; the inputs are {', '.join(shapes)}")
        if not isinstance(options, Mapping):
            raise ExportError(f"preprocess of {name!r} is {options!r}, expected {{'layout': ..., 'resize': ...}}")
        try:
            value = msgspec.convert(dict(options), Preprocess)
        except msgspec.ValidationError as error:
            raise ExportError(
                f"preprocess of {name!r}: {error}; expected layout NCHW or NHWC, resize [height, width], scale, "
                "mean, std"
            ) from error
        problem = preprocess_problem(value, str(source.inputs[name].dtype), shapes[name])
        if problem is not None:
            raise ExportError(f"preprocess of {name!r}: {problem}")
        size = source.inputs[name].shape[2:] if value.layout == "NCHW" else source.inputs[name].shape[1:3]
        if value.resize != size:
            raise ExportError(f"preprocess of {name!r}: resize is {list(value.resize)}, the example is {list(size)}")
        found[name] = value
    return found


def _row_axes(network: Network) -> dict[str, int]:
    """Returns the inputs that hold rows, and along which dimension.

    Raises:
        ExportError: None does.
    """
    shapes = {
        str(value.name): tuple(dims_of(value.shape))
        for value in network.graph.inputs
        if value.name not in network.constants
    }
    places = zip(shapes, axes_of_rows(list(shapes.values())), strict=True)
    found = {name: axis for name, axis in places if axis is not None}
    if any(shapes.values()) and not found:
        shown = ", ".join(f"{name} has {shape[0]}" for name, shape in shapes.items() if shape)
        raise ExportError(f"no input has a batch dimension, dynamic or 1 ({shown}): pass an example of one row")
    return found


def _provenance(source: ModelSource, network: Network) -> dict[str, str | int]:
    match source:
        case TorchSource():
            what = f"torch {type(source.module).__module__}.{type(source.module).__qualname__}"
        case OnnxSource():
            what = f"onnx {source.path.name}"
        case CascadeSource():
            what = f"cascade of {len(source.stages)}"
        case _:
            what = type(source).__name__
    return {
        "eetoolkit": version("eetoolkit"),
        "torch": str(torch.__version__),
        "onnxruntime": ort.__version__,
        "onnx_ir": version("onnx-ir"),
        "python": platform.python_version(),
        "opset": network.graph.opset_imports.get("", 0),
        "source": what,
    }
