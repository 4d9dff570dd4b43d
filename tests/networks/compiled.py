"""A network of the tests as a bundle, and what it must give."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import eetoolkit as ee
from networks.case import Array, Case, Inputs
from networks.formulas import confidence
from networks.reference import Exits, reference, split, thresholds_between

ROWS = 7


@dataclass(frozen=True)
class Compiled:
    """A network, the bundle that it was exported to, and what it must give."""

    case: Case
    model: Any
    bundle: ee.Bundle

    def expected(self, inputs: Inputs) -> list[Exits]:
        """Returns every exit's outputs for each row, as the network itself computes them."""
        return [reference(self.case, self.model, row) for row in split(inputs)]

    @cached_property
    def samples(self) -> dict[str, Samples]:
        """Random rows, and rows made of digits."""
        given = {"random": self.case.random(ROWS, seed=1), "real": self.case.real(ROWS, None)}
        return {kind: Samples(self.case, inputs, self.expected(inputs)) for kind, inputs in given.items()}


@dataclass(frozen=True)
class Samples:
    """Rows of inputs, what every exit must give for each, and thresholds at which several exits fire."""

    case: Case
    inputs: Inputs
    expected: list[Exits]

    @cached_property
    def rows(self) -> list[Inputs]:
        """The inputs of each row."""
        return split(self.inputs)

    @cached_property
    def confidences(self) -> Array:
        """Every exit's confidence for each row, shape (rows, exits), by the formula."""
        return np.stack([
            np.concatenate([
                confidence(row[name]["logits"], "max_prob", self.case.scales.get(name, "logits"), axis=self.case.axis)
                for row in self.expected
            ])
            for name in self.case.exits
        ], axis=1)  # fmt: skip

    @cached_property
    def decisions(self) -> tuple[dict[str, float | None], list[str]]:
        """Thresholds, and the exit at which each row must answer."""
        limits, answered = thresholds_between(self.confidences)
        exits = self.case.exits
        return dict(zip(exits, limits, strict=False)), [exits[index] for index in answered]


def export_case(case: Case, model: Any, path: Path, **options: Any) -> ee.Bundle:
    """Exports a network as its case says."""
    example, golden = case.random(2), case.real(8, None)
    return ee.export(
        model,
        example if case.by_name else tuple(example.values()),
        path,
        criterion=case.criterion(),
        golden_inputs=golden if case.by_name else tuple(golden.values()),
        **{**case.options, **options},
    )
