"""Golden samples of both halves, so that `verify` looks at each of them by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from eetoolkit.splitting.crossing import Coding
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.golden import Sample, Visit, read_golden
from eetoolkit_runtime.plan.halves import Halves, split_in
from eetoolkit_runtime.plan.types import Split
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.verify import DEFAULT_TOLERANCE

_STEP = 1.01  # a little over one, as differences are compared in floating point


@dataclass(frozen=True, eq=False)
class HalvesGolden:
    """The samples of both halves, and the tolerance of each."""

    device: tuple[Sample, ...]
    server: tuple[Sample, ...]
    device_tolerance: float
    server_tolerance: float


def golden_of_halves(source: Bundle, plain: Halves, smaller: Split, codings: Mapping[str, Coding]) -> HalvesGolden:
    """Returns golden samples of both halves from the whole bundle's.

    Exits keep what the source network gave. What crosses is what this machine's device half gives; what is made smaller
    of it is so by numpy, and then the server's exits give what this machine finds, since the source network never saw
    such tensors. A sample that takes another way on this machine, since a gate hangs by a rounding, is left out.

    Rounding may turn a number of what crosses to its neighbour, on another processor: the device's tolerance is at
    least such a step.

    Args:
        source: The whole bundle.
        plain: Its halves with what crosses as it is.
        smaller: What the device's half says of the handover, with what crosses made smaller.
        codings: How, by input of the server's half.
    """
    golden = source.manifest.golden
    tolerance = DEFAULT_TOLERANCE if golden is None else golden.tolerance
    split = split_in(plain.device)
    devices: list[Sample] = []
    servers: list[Sample] = []
    step = 0.0
    with Runner(Bundle(source.path, plain.device)) as device, Runner(Bundle(source.path, plain.server)) as server:
        for sample in read_golden(source):
            met = device.run_all_exits(sample.inputs)
            here = [visit for visit in sample.visits if visit.exit in plain.device.exits]
            if [each.exit for each in met if each.exit != split.exit] != [visit.exit for visit in here]:
                continue
            if met[-1].exit != split.exit:  # a branch that ends without handing over
                devices.append(Sample(sample.inputs, tuple(here)))
                continue
            plainly = {name: met[-1].outputs[output] for name, output in split.sends.items()}
            crossing = encoded(split, smaller, plainly, codings)
            behind = server.run_all_exits(decoded(split, smaller, crossing, codings))
            after = sample.visits[len(here) :]
            if codings:
                after = tuple(Visit(each.exit, each.outputs, each.confidence) for each in behind)
            elif [each.exit for each in behind] != [visit.exit for visit in after]:
                continue
            answers = {name: met[-1].outputs[name] for name in split.answers}
            sent = {smaller.sends[name]: array for name, array in crossing.items()}
            handover = Visit(split.exit, {**answers, **sent}, met[-1].confidence)
            devices.append(Sample(sample.inputs, (*here, handover)))
            servers.append(Sample(crossing, after))
            step = max([step, *(_step(crossing[name], coding) for name, coding in codings.items())])
    return HalvesGolden(tuple(devices), tuple(servers), max(tolerance, step), tolerance)


def encoded(
    plain: Split, smaller: Split, arrays: Mapping[str, Array], codings: Mapping[str, Coding]
) -> dict[str, Array]:
    """Returns what crosses by the inputs of the server's half, of the same tensors as they are."""
    pairs = zip(smaller.sends, plain.sends, strict=True)
    return {name: codings[name].encoded(arrays[old]) if name in codings else arrays[old] for name, old in pairs}


def decoded(
    plain: Split, smaller: Split, arrays: Mapping[str, Array], codings: Mapping[str, Coding]
) -> dict[str, Array]:
    """Returns what the server goes on with, of what crosses."""
    pairs = zip(smaller.sends, plain.sends, strict=True)
    return {old: codings[name].decoded(arrays[name]) if name in codings else arrays[name] for name, old in pairs}


def _step(array: Array, coding: Coding) -> float:
    """Returns what one step of a number makes of the largest magnitude in a tensor, as `verify` compares."""
    if coding.dtype == "float16":
        return _STEP * 2.0**-10
    return _STEP / max(1.0, float(np.abs(array.astype(np.float64)).max(initial=0.0)))
