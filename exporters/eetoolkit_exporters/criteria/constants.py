"""Graph inputs that the manifest's constants feed, so that tuning edits the manifest alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network
from eetoolkit_exporters.criteria.reference import class_output
from eetoolkit_exporters.graph import fresh
from eetoolkit_exporters.naming import plain
from eetoolkit_runtime.plan.types import Criterion


class Constants:
    """Adds constants to a network; those of one meaning are one."""

    def __init__(self, network: Network, used: set[str]) -> None:
        self._network = network
        self._used = used
        self._temperatures: dict[tuple[str, str, float], ir.Value] = {}
        self._taus: dict[float, ir.Value] = {}
        self._limits: dict[tuple[str, int], ir.Value] = {}

    def add(self, stem: str, value: npt.ArrayLike) -> ir.Value:
        """Returns a new float32 graph input."""
        array = np.asarray(value, np.float32)
        name = fresh(plain(stem), self._used)
        found = ir.val(name, ir.DataType.FLOAT, array.shape)
        self._network.graph.inputs.append(found)
        self._network.constants[name] = array
        return found

    def temperature(self, exit_name: str, outputs: Sequence[str], criterion: Criterion) -> ir.Value:
        """Returns T of an exit's class scores, shared by all criteria that read these and begin with the same T."""
        start = 1.0 if criterion.temperature is None else float(criterion.temperature)
        key = (exit_name, class_output(criterion, outputs), start)
        if key not in self._temperatures:
            self._temperatures[key] = self.add(f"{exit_name}_temperature", start)
        return self._temperatures[key]

    def tau(self, value: float) -> ir.Value:
        """Returns tau of patience in regression, shared by all exits that begin with the same."""
        if value not in self._taus:
            self._taus[value] = self.add("patience_tau", value)
        return self._taus[value]

    def limit(self, exit_name: str, member: Criterion) -> ir.Value:
        """Returns a member's threshold, the same wherever an exit of that name stands."""
        key = (exit_name, id(member))  # two members may be equal, and are tuned apart
        if key not in self._limits:
            self._limits[key] = self.add(f"{exit_name}_threshold", float(member.threshold or 0.0))
        return self._limits[key]

    def known_temperature(self, exit_name: str, output: str, start: float) -> str | None:
        """Returns the name of a T that `temperature` has given, if any."""
        found = self._temperatures.get((exit_name, output, start))
        return None if found is None else str(found.name)
