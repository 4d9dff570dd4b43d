"""One score a row, from a torch network to the device, tuning and the page: two classes wherever classes are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks.case import Array
from torch import nn

import eetoolkit as ee
from eetoolkit.tuning.calibrate import raw_scores
from eetoolkit.tuning.collect import collect
from eetoolkit_exporters.criteria.reference import scores_of
from eetoolkit_runtime.errors import ExportError, TuneError
from eetoolkit_runtime.plan.types import ClassScores, Criterion
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.scores import means_one, predicted, two_classes

ROWS = 600


class Wake(nn.Module):
    """A detector with three exits, each of which returns one number a row."""

    def __init__(self, form: str = "logits") -> None:
        super().__init__()
        self.form = form
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(8, 1) for _ in range(3))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Returns what `form` says, (batch, 1); logits of (batch,) where it is `vector`."""
        found = []
        for layer, head in zip(self.layers, self.heads, strict=True):
            x = torch.tanh(layer(x)) + x
            z = head(x)
            found.append(torch.sigmoid(z) if self.form == "probs" else z.squeeze(1) if self.form == "vector" else z)
        return found


def rows(count: int = ROWS, seed: int = 0) -> tuple[Array, Array]:
    """Returns inputs and labels that a line tells apart, but for some noise."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 8)).astype(np.float32)
    return x, (x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * draw.normal(size=count) > 0).astype(np.int64)


@pytest.fixture(scope="module")
def network() -> Wake:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = Wake()
        x, labels = map(torch.from_numpy, rows(seed=1))
        optimizer = torch.optim.Adam(found.parameters(), 1e-2)
        for _ in range(150):
            losses = [nn.functional.binary_cross_entropy_with_logits(z[:, 0], labels.float()) for z in found(x)]
            optimizer.zero_grad()
            torch.stack(losses).sum().backward()
            optimizer.step()
    return found.eval()


@pytest.fixture(scope="module")
def bundle(network: Wake, tmp_path_factory: pytest.TempPathFactory) -> ee.Bundle:
    x, _ = rows()
    folder = tmp_path_factory.mktemp("wake")
    return ee.export(network, x[:1], folder / "wake.ee", golden_inputs=x[:8], threshold=0.8, labels=["quiet", "wake"])


def of_form(network: Wake, form: str) -> Wake:
    found = Wake(form).eval()
    found.load_state_dict(network.state_dict())
    return found


def test_a_detector_leaves_where_torchs_sigmoid_is_sure_and_says_its_class(network: Wake, bundle: ee.Bundle) -> None:
    x, _ = rows(200)
    with torch.no_grad():
        p = torch.stack([torch.sigmoid(z[:, 0]) for z in network(torch.from_numpy(x))]).numpy()
    sure = np.maximum(p, 1 - p)
    with ee.Runner(bundle, threads=1) as runner:
        together = runner.run_batch(x)
        for n, answer in enumerate(together):
            clear = abs(sure[:2, n] - 0.8).min() > 1e-5
            first = next((e for e in range(2) if sure[e, n] >= 0.8), 2)
            if clear:
                assert answer.exit == f"exit{first}"
            e = int(answer.exit[-1])
            assert answer.confidence == pytest.approx(sure[e, n], abs=1e-5)
            assert answer.prediction == int(p[e, n] >= 0.5)
            assert runner.run(x[n : n + 1]).prediction == answer.prediction
    assert {answer.prediction for answer in together} == {0, 1}
    assert len({answer.exit for answer in together}) == 3


def test_the_bundle_of_a_detector_verifies_against_its_network(network: Wake, bundle: ee.Bundle) -> None:
    report = ee.verify(bundle, network)
    assert report.passed, report
    assert report.samples > 8


@pytest.mark.parametrize(("form", "scale"), [("probs", "probs"), ("vector", "logits")])
@pytest.mark.parametrize("kind", ["vote", "mean_ensemble"])
def test_probabilities_and_vectors_say_the_same(
    form: str, scale: str, kind: Any, network: Wake, tmp_path: Path
) -> None:
    x, _ = rows(40)
    found = []
    for own, chosen in ((network, "logits"), (of_form(network, form), scale)):
        criterion = Criterion(kind=kind, scale=chosen)  # type: ignore[arg-type]
        exported = ee.export(own, x[:1], tmp_path / "it.ee", criterion=criterion, overwrite=True)
        with ee.Runner(exported, threads=1) as runner:
            found.append([[(a.confidence, a.prediction) for a in runner.run_all_exits(row[None])] for row in x])
    assert [[said for _, said in row] for row in found[0]] == [[said for _, said in row] for row in found[1]]
    np.testing.assert_allclose(
        [[sure for sure, _ in row] for row in found[0]], [[sure for sure, _ in row] for row in found[1]], atol=1e-5
    )


def test_nothing_is_said_of_gates_in_what_a_criterion_computes(network: Wake, tmp_path: Path) -> None:
    x, _ = rows(1)
    exported = ee.export(
        of_form(network, "probs"), x, tmp_path / "it.ee", criterion=Criterion(kind="max_prob", scale="probs")
    )
    assert not [note for note in exported.manifest.notes if "gate" in note]


def test_labels_name_the_two_classes_of_one_score(network: Wake, tmp_path: Path) -> None:
    x, _ = rows(1)
    for labels in (["wake"], ["a", "b", "c"]):
        with pytest.raises(ExportError, match=f"got {len(labels)} labels, but exit 'exit0' has 2 classes"):
            ee.export(network, x, tmp_path / "it.ee", labels=labels)


def test_a_detector_is_tuned_with_the_labels_0_and_1(network: Wake, bundle: ee.Bundle, tmp_path: Path) -> None:
    x, labels = rows(400)
    record = collect(bundle, x, labels, threads=1)
    with torch.no_grad():
        said = torch.stack([z[:, 0] >= 0 for z in network(torch.from_numpy(x))], 1).int().numpy()
    np.testing.assert_array_equal(record.prediction, said)
    report = ee.tune(bundle, x, labels, max_accuracy_drop=0.05)
    assert [each.label for each in report.classes] == [0, 1]
    assert report.chosen.share.value < 1
    assert len(report.calibration) == 3
    for each in report.calibration:
        assert min(b.confidence for b in each.after.bins if b.rows) >= 0.5
    page = ee.write_report(report, tmp_path / "page.html")
    text = Path(page).read_text("utf-8")
    assert "quiet" in text
    assert "wake" in text
    with pytest.raises(TuneError, match="of row 0 is no class; expected 0 to 1"):
        ee.tune(bundle, x, labels + 2)


def test_the_temperature_of_one_score_is_fitted_to_its_sigmoid(bundle: ee.Bundle) -> None:
    x, labels = rows(120)
    record = collect(bundle, x, labels, threads=1)
    known = raw_scores(record, bundle.manifest, "exit1")
    assert known is not None
    z, columns = known
    score = record.outputs["logits"][:, 1, 0].astype(np.float64)
    p = 1 / (1 + np.exp(-score))
    right = np.exp(z)[np.arange(120), columns] / np.exp(z).sum(axis=1)
    np.testing.assert_allclose(right, np.where(labels == 1, p, 1 - p), atol=1e-12)


@pytest.mark.parametrize(("scale", "half"), [("logits", 0.0), ("probs", 0.5), ("log_probs", math.log(0.5))])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(1,), (1, 1), (1, 1, 1, 1)])
def test_one_score_means_class_1_from_one_half_on(scale: Any, half: float, dtype: str, shape: tuple[int, ...]) -> None:
    step = 8 * float(np.finfo(dtype).eps)
    for score, said in ((half + step, 1), (half - step, 0), (math.nan, None)):
        outputs = {"logits": np.full(shape, score, dtype)}
        assert predicted(outputs, ClassScores(output="logits", scale=scale)) == said
    if dtype != "float16" or scale != "log_probs":  # which has no ln 0.5
        assert means_one(np.full(1, half, dtype), scale).all()


def test_what_the_criterion_reads_is_what_is_said() -> None:
    outputs = {"score": np.array([[0.7]], np.float32), "state": np.zeros((1, 4), np.float32)}
    assert predicted(outputs, None) is None
    assert predicted(outputs, scores_of(Criterion(kind="margin", output="score", scale="probs"), outputs)) == 1
    members = (Criterion(kind="learned", output="state"), Criterion(kind="max_prob", output="score"))
    assert predicted(outputs, scores_of(Criterion(kind="any_of", members=members), outputs)) == 1
    mean = scores_of(Criterion(kind="mean_ensemble", scale="probs"), ["logits"])
    assert predicted({"logits": np.array([[-0.2]])}, mean) == 0
    assert scores_of(Criterion(kind="custom", function="f"), ["a", "b"]) is None
    assert scores_of(Criterion(kind="learned", output="sure"), ["sure", "answer"]) == ClassScores(output="answer")


@pytest.mark.parametrize("criterion", [
    Criterion(kind="patience", tau=0.1), Criterion(kind="any_of", members=(Criterion(kind="patience", tau="tau"),)),
])  # fmt: skip
def test_a_value_of_regression_is_no_class(criterion: Criterion) -> None:
    assert scores_of(criterion, ["logits"]) is None


def test_a_vote_that_nobody_cast_is_no_class() -> None:
    outputs = {"logits": np.full((1, 1), np.nan, np.float32), "label": np.array([-1])}
    assert Answer(outputs, "exit0", math.nan, (), 1).prediction is None


@pytest.mark.parametrize("scale", ["logits", "probs", "log_probs"])
def test_one_score_is_written_out_as_two_that_add_up(scale: Any) -> None:
    z = torch.linspace(-30, 30, 25, dtype=torch.float64)
    p = torch.sigmoid(z)
    score = {"logits": z, "probs": p, "log_probs": nn.functional.logsigmoid(z)}[scale].numpy()[:, None]
    found = torch.from_numpy(two_classes(score, scale))
    classes = {"logits": found.softmax(1), "probs": found, "log_probs": found.exp()}[scale]
    torch.testing.assert_close(classes, torch.stack([1 - p, p], 1), rtol=0, atol=1e-12)
