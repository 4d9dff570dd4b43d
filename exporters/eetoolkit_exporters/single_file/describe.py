"""What NAME.json says of a plan that is one ONNX file: what goes in, what comes out, thresholds, golden samples."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import msgspec
import onnx_ir as ir

from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.emitting.releases import least_onnxruntime
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import Visit, read_golden
from eetoolkit_runtime.errors import EEToolkitError, ExportError
from eetoolkit_runtime.files.outfile import check_file
from eetoolkit_runtime.files.paths import shown
from eetoolkit_runtime.files.wire import raw_places
from eetoolkit_runtime.plan.seal import sha256_of
from eetoolkit_runtime.plan.types import DType, Exit, File, Gate, Switch
from eetoolkit_runtime.running.decision import limit_of
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.single_file.description import (
    FORMAT,
    VERSION,
    Description,
    Input,
    NumberedExit,
    Output,
    Picture,
    Scores,
    ThresholdPlace,
    description_path,
    golden_path,
    is_description,
)
from eetoolkit_runtime.single_file.golden import RightSample, encode_samples, shortest
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE, ROUNDING, hangs_by_rounding, may_answer

Kind = TypeVar("Kind", bound=msgspec.Struct)

_MEANINGS = {
    "exit": "the number of the exit that answered; -1: none did, and the other outputs mean nothing",
    "confidence": "how sure that exit is; it answers where its threshold is reached",
}
_ANSWERS = "what the exit that answered gives"
_NUMBERS = re.compile(rb"\[\n\s*([-\dtf][^\[\]{}\"]*?)\n\s*\]")
"""A list of numbers or bools that stands on several lines."""


def check_beside(model: Path, *, overwrite: bool) -> None:
    """Refuses what cannot be written beside an ONNX file; to be asked before any work is done for it.

    Raises:
        EEToolkitError: Something is there and `overwrite` is not set, or it is not of our making.
    """
    path = check_file(description_path(model), overwrite=overwrite)
    if path.exists() and not is_description(path):
        raise EEToolkitError(f"{shown(path)} exists and describes no ONNX file of ours; choose another name")
    check_file(golden_path(model), overwrite=overwrite)


def describe(
    bundle: Bundle, model: ir.Model, content: bytes, thresholds: Mapping[str, str]
) -> tuple[bytes, bytes | None]:
    """Returns the description of a bundle's plan as one ONNX file, and the tensors of its samples where it names them.

    Args:
        bundle: The bundle.
        model: The plan as one model.
        content: The same as a file's bytes.
        thresholds: The initializers that hold the exits' thresholds, by exit.
    """
    plan = bundle.manifest
    golden = plan.golden
    tolerance = DEFAULT_TOLERANCE if golden is None else golden.tolerance
    thresholds = {exit_: name for exit_, name in thresholds.items() if math.isfinite(_value(model, name))}
    samples, tensors = encode_samples(_samples(bundle, tolerance, thresholds), list(plan.exits), tolerance)
    if samples is not None and tensors is not None:
        samples = msgspec.structs.replace(samples, tensors=_file(tensors))
    places = raw_places(content)
    least = max(least_onnxruntime(model), _version(plan.onnxruntime))
    description = Description(
        format=FORMAT,
        version=VERSION,
        name=plan.name,
        model=_file(content),
        onnxruntime=f"{least[0]}.{least[1]}",
        ir_version=model.ir_version,
        opsets={domain or "ai.onnx": version for domain, version in model.opset_imports.items()},
        inputs=tuple(
            Input(
                name=spec.name,
                title=plan.titles.get(spec.name),
                dtype=spec.dtype,
                shape=tuple(dims_of(value.shape)),
                preprocess=_explicit(plan.preprocess.get(spec.name), Picture),
            )
            for spec, value in zip(plan.inputs, model.graph.inputs, strict=True)
        ),
        limits=plan.limits,
        outputs=tuple(
            Output(
                name=(name := str(value.name)),
                title=plan.titles.get(name),
                dtype=_dtype(value),
                shape=tuple(dims_of(value.shape)),
                meaning=_MEANINGS.get(name, _ANSWERS),
            )
            for value in model.graph.outputs
        ),
        exits=tuple(
            NumberedExit(
                name=name,
                title=plan.titles.get(name),
                scores=_explicit(exit_.scores, Scores),
                threshold=_threshold(model, thresholds[name], places) if name in thresholds else None,
                disabled=not exit_.enabled,
            )
            for name, exit_ in plan.exits.items()
        ),
        fallback=plan.fallback,
        labels=plan.labels,
        golden=samples,
    )
    text = msgspec.json.format(msgspec.json.encode(description), indent=1) + b"\n"
    return _NUMBERS.sub(lambda found: b"[" + b" ".join(found[1].split()) + b"]", text), tensors


def _samples(bundle: Bundle, tolerance: float, changeable: Container[str]) -> list[RightSample]:
    """Returns the bundle's golden samples with those of their visits that are right.

    Left out are samples of which rounding decides the way at a gate or whose confidences JSON cannot hold, and exits
    that the file cannot be made to answer with.

    Args:
        bundle: The bundle.
        tolerance: What a confidence may be off by.
        changeable: The exits whose thresholds can be changed.
    """
    plan, found = bundle.manifest, []
    gated = any(isinstance(segment.next, Gate | Switch) for segment in plan.segments.values())
    with Runner(bundle, threads=1) as runner:
        for sample in read_golden(bundle):
            if gated:
                answers = runner.run_all_exits(sample.inputs)
                if hangs_by_rounding(runner, sample.inputs, answers, ROUNDING * tolerance):
                    continue
            right = may_answer(sample.visits, plan.exits, tolerance, most_confident=plan.fallback == "most_confident")
            chosen = {id(visit) for visit in right}
            met = _reached(sample.visits, plan.exits, changeable)
            visits = [visit for visit in met if id(visit) in chosen or not math.isnan(visit.confidence)]
            if chosen <= {id(visit) for visit in visits} and all(math.isfinite(visit.confidence) for visit in visits):
                places = tuple(place for place, visit in enumerate(visits) if id(visit) in chosen)
                found.append(RightSample(sample.inputs, tuple(visits), places))
    return found


def _reached(visits: Sequence[Visit], exits: Mapping[str, Exit], changeable: Container[str]) -> list[Visit]:
    """Returns the visits that the file can be made to answer with: none behind a fixed one that fires."""
    found: list[Visit] = []
    for visit in visits:
        exit_ = exits[visit.exit]
        if exit_.enabled:
            found.append(visit)
        if visit.exit not in changeable and visit.confidence >= limit_of(exit_.threshold):
            break
    return found


def _threshold(model: ir.Model, initializer: str, places: Mapping[str, int]) -> ThresholdPlace:
    value = shortest(_value(model, initializer))
    return ThresholdPlace(value=value, initializer=initializer, offset=places[initializer])


def _value(model: ir.Model, initializer: str) -> float:
    tensor = model.graph.initializers[initializer].const_value
    if tensor is None:
        raise ExportError(f"the initializer {initializer!r} has no value")
    return float(tensor.numpy())


def _explicit(value: msgspec.Struct | None, kind: type[Kind]) -> Kind | None:
    """Returns a value of the manifest as one that leaves no default out."""
    return None if value is None else msgspec.convert(value, kind, from_attributes=True)


def _file(content: bytes) -> File:
    return File(sha256=sha256_of(content), size=len(content))


def _version(text: str | None) -> tuple[int, int]:
    major, minor = (text or "0.0").split(".")
    return int(major), int(minor)


def _dtype(value: ir.Value) -> DType:
    if value.dtype is None:
        raise ExportError(f"the output {value.name!r} has no dtype")
    return cast("DType", str(value.dtype.numpy()))
