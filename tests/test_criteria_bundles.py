"""Every criterion from a torch network to the runner: which exit answers what, for digits, against the formulas."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from networks import formulas
from networks.case import Array, digits
from test_prune import assert_same, disabled
from torch import nn

import eetoolkit as ee
from eetoolkit_exporters.emitting.samples import source_samples
from eetoolkit_runtime.errors import ExportError
from eetoolkit_runtime.plan.types import Criterion
from eetoolkit_runtime.verify import verify

ROWS = 50
EXITS = ("exit0", "exit1", "exit2", "exit3")
TEMPERATURES = (1.0, 0.5, 2.0, 1.5)
WEIGHTS = ((0.8,), (0.3, 0.9), (0.0, 0.5, 0.7), (0.2, 0.1, 0.4, 0.6))
BIAS = tuple(np.linspace(-0.3, 0.3, 10).astype(np.float32).tolist())

Rows = list[list[list[float]]]
"""For each row and exit the class scores."""


class Four(nn.Module):
    """Four blocks, a head after each; each exit also says how sure it is, and one number beside the classes."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(64, 64) for _ in EXITS)
        self.heads = nn.ModuleList(nn.Linear(64, 10) for _ in EXITS)
        self.sure = nn.ModuleList(nn.Linear(64, 1) for _ in EXITS)

    def forward(self, image: torch.Tensor) -> dict[str, dict[str, torch.Tensor]]:
        """Returns logits (batch, 10) and confidence (batch, 1) of every exit."""
        x = image.flatten(1)
        found = {}
        for name, block, head, sure in zip(EXITS, self.blocks, self.heads, self.sure, strict=True):
            x = torch.relu(x + block(x))
            found[name] = {"logits": head(x), "confidence": torch.sigmoid(sure(x))}
        return found


class Values(nn.Module):
    """The same in regression."""

    def __init__(self, four: Four) -> None:
        super().__init__()
        self.four = four

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns a value (batch, 1) of every exit."""
        return tuple(outputs["confidence"] for outputs in self.four(image).values())


def logit_gap(outputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns a custom confidence: how far the largest logit is above the mean, squashed, (batch,)."""
    z = outputs["logits"]
    return torch.tanh((z.amax(1) - z.mean(1)) / 4)


@pytest.fixture(scope="module")
def four() -> Four:
    """Returns the network, its heads trained a little so that exits agree now and then."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Four()
        from sklearn.datasets import load_digits

        labels = torch.from_numpy(load_digits().target)[500:1500]
        images = torch.from_numpy(digits(1500)[500:])
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(40):
            loss = sum(nn.functional.cross_entropy(outputs["logits"], labels) for outputs in network(images).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@dataclass(frozen=True)
class Kind:
    """A criterion under test.

    Attributes:
        criterion: What the export is given.
        expected: From a row's scores at every exit, and its learned confidences, to what each exit must say: its
            confidence, and the answer that replaces or joins its own.
        threshold: What the export is given; None: the default, 0.9 unless `default` says otherwise.
        fires: The threshold that holds.
    """

    criterion: Any
    expected: Callable[[list[Array], list[float]], list[tuple[float, dict[str, Any]]]]
    fires: float
    threshold: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


def classes_of(scores: list[Array]) -> list[int | None]:
    return [formulas.first_largest(z, "logits") for z in scores]


def log_p_of(scores: list[Array], temperatures: tuple[float, ...] = (1.0,) * 4) -> list[list[float]]:
    return [formulas.log_probabilities(z, "logits", t) for z, t in zip(scores, temperatures, strict=True)]


def by_patience(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    return [(count, {}) for count in formulas.patience(classes_of(scores))]


def by_vote(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    return [(share, {"label": label}) for share, label in formulas.vote(classes_of(scores))]


def by_mean(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    log_p = log_p_of(scores, TEMPERATURES)
    means = [formulas.mean_of_p(log_p[: count + 1]) for count in range(len(scores))]
    return [(max(formulas.softmax(mean)), {"logits": mean}) for mean in means]


def by_geometric(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    log_p = log_p_of(scores)
    q = [formulas.geometric(log_p[: count + 1], list(WEIGHTS[count]), list(BIAS)) for count in range(len(scores))]
    return [(max(formulas.softmax(own)), {"logits": own}) for own in q]


def by_learning(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    return [(1 - u, {}) for u in sure]


def of_each(
    kind: str, temperatures: tuple[float, ...] = (1.0,) * 4
) -> Callable[..., list[tuple[float, dict[str, Any]]]]:
    def expected(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
        pairs = zip(scores, temperatures, strict=True)
        return [(formulas.of_vector(formulas.probabilities(z, "logits", t), kind), {}) for z, t in pairs]

    return expected


def by_function(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    return [(math.tanh((max(z.tolist()) - math.fsum(z.tolist()) / 10) / 4), {}) for z in scores]


def combined(scores: list[Array], sure: list[float]) -> list[tuple[float, dict[str, Any]]]:
    own = zip(by_patience(scores, sure), of_each("margin")(scores, sure), by_function(scores, sure), strict=True)
    return [(np.mean([count >= 1, gap >= 0.25, far >= 0.8]), {}) for (count, _), (gap, _), (far, _) in own]


MEMBERS = (
    Criterion(kind="patience", threshold=1),
    Criterion(kind="margin", threshold=0.25),
    Criterion(kind="custom", function=logit_gap, threshold=0.8),
)


def tempered(kind: str) -> dict[str, Criterion]:
    """Returns the criterion of every exit with a temperature of its own."""
    return {
        name: Criterion(kind=kind, temperature=temperature)  # type: ignore[arg-type]
        for name, temperature in zip(EXITS, TEMPERATURES, strict=True)
    }


KINDS = {
    "max_prob": Kind(tempered("max_prob"), of_each("max_prob", TEMPERATURES), 0.6, 0.6),
    "entropy": Kind("entropy", of_each("entropy"), 0.5, 0.5),
    "margin": Kind("margin", of_each("margin"), 0.9),
    "patience": Kind("patience", by_patience, 2),
    "vote": Kind("vote", by_vote, 0.75, 0.75, {"min_exit": "exit2"}),
    "mean_ensemble": Kind(tempered("mean_ensemble"), by_mean, 0.7, 0.7),
    "geometric_ensemble": Kind(
        {
            name: Criterion(kind="geometric_ensemble", weights=weights, bias=BIAS)
            for name, weights in zip(EXITS, WEIGHTS, strict=True)
        },
        by_geometric, 0.6, 0.6,
    ),
    "learned": Kind(Criterion(kind="learned", invert=True), by_learning, 0.55, 0.55),
    "custom": Kind(logit_gap, by_function, 0.9),
    "all_of": Kind(Criterion(kind="all_of", members=MEMBERS), combined, 1),
    "any_of": Kind(Criterion(kind="any_of", members=MEMBERS), combined, 1 / 3 - 1e-3),
    "at_least": Kind(Criterion(kind="at_least", n=2, members=MEMBERS), combined, 2 / 3 - 1e-3),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(KINDS))
def exported(
    request: pytest.FixtureRequest, four: Four, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Kind, ee.Bundle]:
    """Returns a criterion and the bundle that uses it."""
    kind = KINDS[request.param]
    path = tmp_path_factory.mktemp("bundle") / "four.ee"
    bundle = ee.export(
        four, (digits(2),), path, criterion=kind.criterion, threshold=kind.threshold, golden_inputs=digits(20),
        **kind.options,
    )  # fmt: skip
    return kind, bundle


def rows_of(four: Four) -> list[tuple[list[Array], list[float]]]:
    """Returns what the network itself gives for each row: scores and learned confidence at every exit."""
    found = []
    for row in range(ROWS):
        with torch.no_grad():
            outputs = four(torch.from_numpy(digits(ROWS)[row : row + 1]))
        scores = [own["logits"][0].double().numpy() for own in outputs.values()]
        found.append((scores, [float(own["confidence"]) for own in outputs.values()]))
    return found


def test_every_exit_says_what_its_formula_says(exported: tuple[Kind, ee.Bundle], four: Four) -> None:
    kind, bundle = exported
    images = digits(ROWS)
    with ee.Runner(bundle) as runner:
        for row, (scores, sure) in enumerate(rows_of(four)):
            answers = runner.run_all_exits(images[row : row + 1])
            assert [answer.exit for answer in answers] == list(EXITS)
            for answer, z, (confidence, changed) in zip(answers, scores, kind.expected(scores, sure), strict=True):
                assert answer.confidence == pytest.approx(confidence, abs=2e-5)
                for name, value in ({"logits": z} | changed).items():
                    np.testing.assert_allclose(answer.outputs[name][0], value, rtol=1e-5, atol=2e-5, err_msg=name)


def test_the_first_exit_that_is_sure_enough_answers(exported: tuple[Kind, ee.Bundle], four: Four) -> None:
    kind, bundle = exported
    images = digits(ROWS)
    first = EXITS.index(kind.options.get("min_exit", "exit0"))
    expected = []
    for scores, sure in rows_of(four):
        confidences = [confidence for confidence, _ in kind.expected(scores, sure)]
        assert not any(0 < abs(confidence - kind.fires) < 1e-5 for confidence in confidences), "a tie: other rows"
        fires = [n for n, confidence in enumerate(confidences) if n >= first and confidence >= kind.fires]
        expected.append(EXITS[fires[0] if fires else -1])
    assert len(set(expected)) > 1
    with ee.Runner(bundle) as runner:
        assert [runner.run(images[row : row + 1]).exit for row in range(ROWS)] == expected
        together = runner.run_batch(images)
    assert [answer.exit for answer in together] == expected
    for answer, (scores, sure) in zip(together, rows_of(four), strict=True):
        number = EXITS.index(answer.exit)
        confidence, changed = kind.expected(scores, sure)[number]
        assert answer.confidence == pytest.approx(confidence, abs=2e-5)
        for name, value in ({"logits": scores[number]} | changed).items():
            np.testing.assert_allclose(answer.outputs[name][0], value, rtol=1e-5, atol=2e-5, err_msg=name)


def test_the_bundle_proves_itself_on_fresh_inputs(exported: tuple[Kind, ee.Bundle], four: Four) -> None:
    kind, bundle = exported
    samples = source_samples(bundle, four, inputs=digits(30), fresh=4, criterion=kind.criterion)
    assert len(samples) > 30
    report = verify(bundle, samples)
    assert report.passed, str(report)


def test_a_bundle_that_counts_wrongly_is_found_out(four: Four, tmp_path: Path) -> None:
    bundle = ee.export(four, (digits(2),), tmp_path / "four.ee", criterion="patience", golden_inputs=digits(20))
    samples = source_samples(bundle, four, fresh=2)
    counted = [
        [(visit.exit, visit.outputs, visit.confidence + (visit.exit == "exit2")) for visit in sample.visits]
        for sample in samples
    ]
    wrong = [
        type(sample)(sample.inputs, tuple(type(sample.visits[0])(*visit) for visit in visits))
        for sample, visits in zip(samples, counted, strict=True)
    ]
    assert not verify(bundle, wrong).passed


def test_tuning_a_constant_changes_the_confidence_and_the_source_follows(four: Four, tmp_path: Path) -> None:
    bundle = ee.export(
        four, (digits(2),), tmp_path / "four.ee", criterion="geometric_ensemble", golden_inputs=digits(4)
    )
    constants = {
        name: msgspec.structs.replace(
            constant, data=tuple(0.7 * value + 0.1 * (n + 1) for n, value in enumerate(constant.data))
        )
        for name, constant in bundle.manifest.constants.items()
    }
    tuned = ee.Bundle(bundle.path, msgspec.structs.replace(bundle.manifest, constants=constants))
    samples = source_samples(tuned, four, inputs=digits(6), fresh=0)[-6:]
    plain = source_samples(bundle, four, inputs=digits(6), fresh=0)[-6:]
    with ee.Runner(tuned) as runner:
        for sample, before in zip(samples, plain, strict=True):
            answers = runner.run_all_exits(sample.inputs)
            for answer, visit, old in zip(answers, sample.visits, before.visits, strict=True):
                assert answer.confidence == pytest.approx(visit.confidence, abs=1e-5)
                assert not np.allclose(visit.outputs["logits"], old.outputs["logits"], atol=1e-2)
                np.testing.assert_allclose(answer.outputs["logits"], visit.outputs["logits"], rtol=1e-5, atol=1e-5)


def test_patience_in_regression_runs(four: Four, tmp_path: Path) -> None:
    bundle = ee.export(
        Values(four).eval(), (digits(2),), tmp_path / "values.ee", criterion=Criterion(kind="patience", tau=0.05),
        golden_inputs=digits(12), threshold=1,
    )  # fmt: skip
    assert bundle.manifest.constants["patience_tau"].data == (pytest.approx(0.05),)
    exits = set()
    with ee.Runner(bundle) as runner:
        for row, (_, values) in enumerate(rows_of(four)):
            counts = formulas.patience_in_regression(values, 0.05)
            answers = runner.run_all_exits(digits(ROWS)[row : row + 1])
            assert [answer.confidence for answer in answers] == counts
            fires = [number for number, count in enumerate(counts) if count >= 1]
            answer = runner.run(digits(ROWS)[row : row + 1])
            assert answer.exit == EXITS[fires[0] if fires else -1]
            exits.add(answer.exit)
    assert len(exits) > 1


def test_a_custom_criterion_needs_its_function_again_to_be_verified_with_the_model(four: Four, tmp_path: Path) -> None:
    bundle = ee.export(four, (digits(2),), tmp_path / "four.ee", criterion=logit_gap)
    assert bundle.exits["exit0"].criterion.function == f"{__name__}.logit_gap"
    with pytest.raises(ExportError, match=r"custom criterion .*logit_gap, and the model cannot be judged without it"):
        source_samples(bundle, four)


def test_criteria_may_differ_from_exit_to_exit(four: Four, tmp_path: Path) -> None:
    chosen = {"exit0": "margin", "exit1": "entropy", "exit2": "patience", "exit3": "mean_ensemble"}
    bundle = ee.export(four, (digits(2),), tmp_path / "four.ee", criterion=chosen, golden_inputs=digits(8))
    assert [(exit_.criterion.kind, exit_.threshold) for exit_ in bundle.exits.values()] == [
        ("margin", 0.9), ("entropy", 0.9), ("patience", 2.0), ("mean_ensemble", "always")
    ]  # fmt: skip
    with ee.Runner(bundle) as runner:
        for row, (scores, sure) in enumerate(rows_of(four)):
            answers = runner.run_all_exits(digits(ROWS)[row : row + 1])
            assert answers[2].confidence == by_patience(scores, sure)[2][0]
            np.testing.assert_allclose(
                answers[3].outputs["logits"][0], formulas.mean_of_p(log_p_of(scores)), rtol=1e-5, atol=2e-5
            )


def test_a_pruned_bundle_keeps_what_later_criteria_take_from_a_head(
    exported: tuple[Kind, ee.Bundle],
    tmp_path: Path,
) -> None:
    whole, gone = exported[1], ("exit1", "exit2")
    short = ee.prune(whole, gone, tmp_path / "short.ee")
    assert [s.exit.name for s in short.manifest.segments.values() if s.exit] == ["exit0", "exit3"]
    images = digits(40)
    with ee.Runner(disabled(whole, gone), threads=1) as runner, ee.Runner(short, threads=1) as shorter:
        for k in range(len(images)):
            assert_same(runner, shorter, images[k : k + 1])
        alone = [shorter.run(images[k : k + 1]).exit for k in range(len(images))]
        assert [answer.exit for answer in shorter.run_batch(images)] == alone
    nodes = [sum(s.work.nodes for s in b.manifest.segments.values() if s.work) for b in (whole, short)]
    assert nodes[1] < nodes[0]
