"""What is known of a network before it has confidences: bounds that its graph proves, its outputs for some rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.capturing.source import Visits
from eetoolkit_exporters.criteria.reference import class_output
from eetoolkit_exporters.criteria.stateless import Scores, class_scores
from eetoolkit_exporters.gating.hardness import value_ranges
from eetoolkit_exporters.gating.ranges import UNKNOWN, Range
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import Criterion
from eetoolkit_runtime.running.scores import parts


@dataclass(frozen=True)
class Facts:
    """A network's exits, as they are before `add_confidences` gives them other outputs.

    Attributes:
        exits: In the order in which a row meets them.
        criteria: Each exit's, with numbers.
        ranges: Bounds of values that hold for every input.
        met: What the exits gave for each of some rows.
        tolerance: The rounding error of the network's arithmetic.
    """

    exits: Sequence[NetworkExit]
    criteria: Mapping[str, Criterion]
    ranges: Mapping[ir.Value, Range]
    met: Sequence[Visits]
    tolerance: float

    def range_of(self, value: ir.Value) -> Range:
        """Returns a value's bounds."""
        return self.ranges.get(value, UNKNOWN)

    def seen(self, exit_: NetworkExit, value: ir.Value) -> list[Array]:
        """Returns what an output of an exit was for each row that met it, where all of it was finite."""
        output = next(name for name, own in exit_.outputs.items() if own is value)
        arrays = [np.asarray(outputs[output]) for row in self.met for name, outputs in row if name == exit_.name]
        return [array for array in arrays if np.isfinite(array).all()]

    def read(self, exit_: NetworkExit, criterion: Criterion | None = None) -> Iterator[tuple[Criterion, Scores]]:
        """Yields the parts of an exit's criterion, or of another one, that read class scores, with these."""
        for part in parts(criterion or self.criteria[exit_.name]):
            if not kind_of(part).reads_scores or part.tau is not None:
                continue
            try:
                value = exit_.outputs[class_output(part, tuple(exit_.outputs))]
                yield part, class_scores(exit_.name, value, part, part.kind)
            except ExportError:
                continue  # `add_confidences` refuses them


def facts(network: Network, criteria: Mapping[str, Criterion], met: Sequence[Visits], tolerance: float) -> Facts:
    """Returns what is known of a network whose exits have no confidences yet."""
    exits = [NetworkExit(exit_.name, dict(exit_.outputs)) for exit_ in network.exits]
    return Facts(exits, criteria, value_ranges(network.graph), met, tolerance)
