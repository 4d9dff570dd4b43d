"""Each exit's criterion as ONNX nodes in the graph, so that a device compares numbers and computes none.

`reference` is the same in numpy, with the formulas and their sources.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import onnx_ir as ir

from eetoolkit_exporters.capturing.capture import Network, NetworkExit
from eetoolkit_exporters.criteria import custom, stateless
from eetoolkit_exporters.criteria.builder import Builder
from eetoolkit_exporters.criteria.constants import Constants
from eetoolkit_exporters.criteria.reference import class_output
from eetoolkit_exporters.criteria.stateful import Chain
from eetoolkit_exporters.graph import names_of
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.criteria import kind_of
from eetoolkit_runtime.plan.types import Criterion
from eetoolkit_runtime.running.scores import LABEL


def add_confidences(network: Network, criteria: Mapping[str, Criterion]) -> dict[str, Criterion]:
    """Adds a `confidence`, float32 of shape (batch,), to every exit, and graph inputs for what tuning changes.

    `vote` adds the output `label`, and the ensembles put their own class scores in the place of the exit's. The nodes
    of an exit in a branch or a loop are put there too.

    Args:
        network: Its exits in the order in which a row meets them, which is how state runs from one to the next.
        criteria: What `choose_criteria` returned.

    Returns:
        The criteria as the manifest has them: with the names of their constants.

    Raises:
        ExportError: Scores without a class dimension of fixed size; state that cannot be passed on; a custom function
            that torch cannot export.
    """
    used = names_of(network.graph)
    constants = Constants(network, used)
    chain = Chain(network, criteria, constants)
    places = enumerate(network.exits)
    adders = [_Adder(network, place, exit_, chain, constants, used) for place, exit_ in places]
    named = {adder.exit.name: adder.add(criteria[adder.exit.name]) for adder in adders}
    return {adder.exit.name: adder.name_temperatures(named[adder.exit.name]) for adder in adders}


class _Adder:
    """Appends what one exit's criterion needs."""

    def __init__(
        self, network: Network, place: int, exit_: NetworkExit, chain: Chain, constants: Constants, used: set[str]
    ) -> None:
        self.exit = exit_
        self._place = place
        self._chain = chain
        self._constants = constants
        self._outputs = dict(exit_.outputs)
        self._build = Builder(network, tuple(exit_.outputs.values()), f"{exit_.name}_", used)

    def add(self, criterion: Criterion) -> Criterion:
        """Gives the exit its confidence and its answer; returns the criterion with its constants named."""
        found, named, answer = self._confidence(criterion)
        if criterion.kind == "vote" and answer is not None:
            self.exit.outputs[LABEL] = answer
        elif kind_of(criterion).ensemble and answer is not None:
            self.exit.outputs[class_output(criterion, tuple(self._outputs))] = answer
        batch = next(iter(self._outputs.values())).shape
        found.name = self._build.name("confidence")
        found.type, found.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(list(batch or [None])[:1])
        self.exit.confidence = found
        return named

    def name_temperatures(self, criterion: Criterion) -> Criterion:
        """Returns the criterion with the temperatures of the class scores that it or a later exit reads."""
        members = tuple(map(self.name_temperatures, criterion.members))
        criterion = msgspec.structs.replace(criterion, members=members)
        if kind_of(criterion).combined:
            return criterion
        try:
            output = class_output(criterion, tuple(self._outputs))
        except ExportError:
            return criterion  # it has no class scores, so nothing reads them
        start = 1.0 if criterion.temperature is None else float(criterion.temperature)
        name = self._constants.known_temperature(self.exit.name, output, start)
        return criterion if name is None else msgspec.structs.replace(criterion, temperature=name)

    def _confidence(self, criterion: Criterion) -> tuple[ir.Value, Criterion, ir.Value | None]:
        """Returns the confidence, the criterion with its constants named, and the answer where it is another one."""
        kind, build = criterion.kind, self._build
        result: tuple[ir.Value, Criterion, ir.Value | None]
        if kind_of(criterion).stateful:
            self._chain.check(self._place, kind)
        match kind:
            case "learned":
                value = self._outputs[str(criterion.output)]
                result = stateless.learned(build, self.exit.name, value, invert=criterion.invert), criterion, None
            case "custom":
                result = self._custom(criterion)
            case "patience":
                result = self._patience(criterion)
            case "vote":
                found, label = self._chain.vote(build, self._place)
                result = found, criterion, label
            case "mean_ensemble":
                mean = self._chain.mean(build, self._place)
                answer = self._chain.as_answered(build, self._place, kind, mean)
                result = stateless.max_prob(build, mean), criterion, answer
            case "geometric_ensemble":
                result = self._geometric(criterion)
            case "all_of" | "any_of" | "at_least":
                result = self._combine(criterion)
            case _:
                value = self._outputs[class_output(criterion, tuple(self._outputs))]
                scores = stateless.class_scores(self.exit.name, value, criterion, kind)
                temperature = self._constants.temperature(self.exit.name, tuple(self._outputs), criterion)
                result = stateless.confidence(build, scores, temperature), criterion, None
        return result

    def _patience(self, criterion: Criterion) -> tuple[ir.Value, Criterion, None]:
        tau = None if criterion.tau is None else self._constants.tau(float(criterion.tau))
        found = self._chain.patience(self._build, self._place, tau)
        return found, msgspec.structs.replace(criterion, tau=None if tau is None else tau.name), None

    def _geometric(self, criterion: Criterion) -> tuple[ir.Value, Criterion, ir.Value]:
        count, classes = self._place + 1, self._chain.classes(self._place, "geometric_ensemble")
        given = {"weights": (criterion.weights, 1 / count, count), "bias": (criterion.bias, 0.0, classes)}
        inputs: dict[str, ir.Value] = {}
        for name, (own, default, size) in given.items():
            numbers = own if isinstance(own, tuple) else (default,) * size
            if len(numbers) != size:
                each = "exit so far" if name == "weights" else "class"
                raise ExportError(
                    f"exit {self.exit.name!r}: criterion: {name} has {len(numbers)} numbers, expected {size}, one for "
                    f"each {each}"
                )
            inputs[name] = self._constants.add(f"{self.exit.name}_{name}", numbers)
        q = self._chain.geometric(self._build, self._place, inputs["weights"], inputs["bias"])
        answer = self._chain.as_answered(self._build, self._place, criterion.kind, q)
        named = msgspec.structs.replace(criterion, **{name: str(value.name) for name, value in inputs.items()})
        return stateless.max_prob(self._build, q), named, answer

    def _combine(self, criterion: Criterion) -> tuple[ir.Value, Criterion, None]:
        build = self._build
        total: ir.Value | None = None
        members = []
        for member in criterion.members:
            found, named, _ = self._confidence(member)
            limit = self._constants.limit(self.exit.name, member)
            fires = build("Cast", build("GreaterOrEqual", found, limit), to=int(ir.DataType.FLOAT))
            total = fires if total is None else build("Add", total, fires)
            members.append(msgspec.structs.replace(named, threshold=limit.name))
        if total is None:
            raise ExportError(f"exit {self.exit.name!r}: criterion: {criterion.kind} has no members")
        share = build("Div", total, build.constant(len(members)))
        return share, msgspec.structs.replace(criterion, members=tuple(members)), None

    def _custom(self, criterion: Criterion) -> tuple[ir.Value, Criterion, None]:
        name = custom.name_of(criterion.function)
        if not callable(criterion.function):
            raise ExportError(f"exit {self.exit.name!r}: criterion {name}: not a torch function")
        try:
            found = custom.append(self._build, self._outputs, criterion.function)
        except ExportError as error:
            raise ExportError(f"exit {self.exit.name!r}: criterion {name}: {error}") from error
        return found, msgspec.structs.replace(criterion, function=name), None
