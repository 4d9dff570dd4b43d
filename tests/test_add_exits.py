"""From a trained network with one answer to a tuned bundle, or a word why not."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from single_exit import DigitsNetwork, answers, digits_network
from torch import nn

import eetoolkit as ee
from eetoolkit.adapting.report import AdaptReport
from eetoolkit_exporters.attaching import fit
from eetoolkit_exporters.attaching.part import Part

Array = np.ndarray[tuple[Any, ...], np.dtype[Any]]

BY = "multiply-adds"
HEADS: dict[str, Any] = {"places": ["max_pool2d", "add_35"], "kinds": ["mean", "mean+max+grid"]}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Returns where features go."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EETOOLKIT_CACHE", str(folder))
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def features_in(cache: Path) -> list[Path]:
    return [path for path in cache.rglob("*") if path.is_file()]


@dataclass
class Done:
    """What became of the digits' network: the network before, what was adapted, and its bundle."""

    before: dict[str, Any]
    adapted: ee.Adapted
    bundle: ee.Bundle
    kept: list[Path]
    told: list[str]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Done:
    model, (images, labels) = digits_network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told: list[str] = []
    adapted = ee.add_exits(
        model, images[:240], labels[:240], validation=(images[240:], labels[240:]), max_accuracy_drop=0.03, max_exits=2,
        progress=lambda what, *_: told.append(what),
    )  # fmt: skip
    kept = features_in(cache)
    bundle = adapted.bundle(tmp_path_factory.mktemp("out") / "digits.ee", profile=BY)
    return Done(before, adapted, bundle, kept, told)


def test_it_pays_and_keeps_to_the_exits_asked_for(digits: Done) -> None:
    report = digits.adapted.report
    assert report is not None
    assert report.pays
    assert report.verdict.startswith("early exits pay: ")
    early = [name for name, exit_ in digits.bundle.exits.items() if not exit_.ends]
    assert 1 <= len(early) <= 2
    assert len([place for place in report.places if place.chosen]) == len(early)
    assert report.tuning is not None
    assert report.tuning.chosen.share.value < 0.9


def test_the_last_answer_is_the_networks_for_every_row(digits: Done) -> None:
    images = digits_network()[1][0]
    own = answers(images)
    with ee.Runner(digits.bundle) as runner:
        for row in range(len(images)):
            final = runner.run_all_exits(images[row : row + 1])[-1]
            np.testing.assert_allclose(final.outputs["logits"], own[row : row + 1], atol=1e-5)


def test_accuracy_on_all_rows_is_within_what_was_allowed_and_a_margin(digits: Done) -> None:
    images, labels = digits_network()[1]
    with ee.Runner(digits.bundle) as runner:
        found = np.array([runner.run(images[row : row + 1]).outputs["logits"].argmax() for row in range(len(images))])
    assert (found == labels).mean() >= (answers(images).argmax(1) == labels).mean() - 0.05


def test_the_network_is_left_as_it_was(digits: Done) -> None:
    model = digits_network()[0]
    state = model.state_dict()
    assert list(state) == list(digits.before)
    assert all(state[name].equal(value) for name, value in digits.before.items())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_features_are_kept_until_a_bundle_is_written(digits: Done, cache: Path) -> None:
    assert {path.suffix for path in digits.kept} == {".npy", ".txt", ".pt"}
    assert not set(digits.kept) & set(features_in(cache))


def test_the_report_can_be_sent(digits: Done) -> None:
    report = digits.adapted.report
    assert msgspec.json.decode(msgspec.json.encode(report), type=AdaptReport) == report
    text = str(report)
    for place in digits.adapted.places:
        assert place.name in text
    assert report is not None
    assert report.costs == "a static estimate"  # by multiply-adds, as it was asked for


def test_places_come_with_what_was_tried_there(digits: Done) -> None:
    places = digits.adapted.places
    assert [place.share for place in places] == sorted(place.share for place in places)
    assert all(0 <= head.accuracy <= 1 for place in places for head in place.heads)
    assert all(any(head.candidate for head in place.heads) for place in places)
    assert {"capturing the network", "running the network", "fitting heads"} <= set(digits.told)


def test_an_output_in_the_way_is_refused_before_any_work(
    digits: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("mine")
    monkeypatch.setattr(ee, "export", None)
    with pytest.raises(ee.BundleError, match="taken"):
        digits.adapted.bundle(tmp_path / "taken", profile=BY)
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_interrupted_call_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = digits_network()
    ran: Counter[str] = Counter()
    run, fit_head = Part.run, fit.fit_head

    def counted(self: Part, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ran["rows"] += len(next(iter(inputs.values())))
        return run(self, inputs)

    def fitted(*arguments: Any) -> fit.Fit:
        ran["heads"] += 1
        return fit_head(*arguments)

    def interrupt(what: str, done: int, _total: int) -> None:
        if what == "fitting heads" and done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Part, "run", counted)
    monkeypatch.setattr(fit, "fit_head", fitted)
    with pytest.raises(KeyboardInterrupt):
        ee.add_exits(model, images, labels, folder=tmp_path / "a", progress=interrupt, **HEADS)
    before = ran.copy()
    assert before["heads"] == 2
    again = ee.add_exits(model, images, labels, folder=tmp_path / "a", **HEADS)
    assert ran["heads"] == 4
    assert ran["rows"] - before["rows"] < len(images)  # only what is looked at otherwise
    once = ee.add_exits(model, images, labels, folder=tmp_path / "b", **HEADS)
    assert again.places == once.places
    for name, head in once.model.heads.items():
        for own, other in zip(head.parameters(), again.model.heads[name].parameters(), strict=True):
            torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_rows_for_validation_are_those_that_tune() -> None:
    model, (images, labels) = digits_network()
    found = ee.add_exits(model, images[:400], labels[:400], validation=(images[400:], labels[400:]), **HEADS)
    assert found.first.rows == {"fit": 320, "choose": 80, "tune": 320}
    np.testing.assert_array_equal(found.rows.inputs["image"], images[400:])
    np.testing.assert_array_equal(found.rows.labels, labels[400:])


def test_without_labels_the_networks_answers_count_as_right() -> None:
    model, (images, _) = digits_network()
    found = ee.add_exits(model, images, **HEADS)
    assert not found.first.labelled
    assert found.first.accuracy == 1
    assert any("the network's own answers count as right" in note for note in found.first.notes)
    np.testing.assert_array_equal(found.rows.labels, answers(found.rows.inputs["image"]).argmax(1))
    assert [place.name for place in found.places] == HEADS["places"]
    assert [[head.kind for head in place.heads] for place in found.places] == [HEADS["kinds"]] * 2
    assert max(head.accuracy for place in found.places for head in place.heads) > 0.8


class Late(nn.Module):
    """Nearly all of its work comes before its only place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.big = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU())
        self.small = nn.Sequential(nn.Linear(512, 4), nn.ReLU())
        self.head = nn.Linear(4, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.small(self.big(image)))
        return found


def test_where_the_only_place_is_late_nothing_is_written(tmp_path: Path) -> None:
    images = digits_network()[1][0]
    net = Late().eval()
    with torch.no_grad():
        net.head.bias -= net(torch.from_numpy(images)).mean(0)  # so that it does not always answer the same
    found = ee.add_exits(net, images, max_accuracy_drop=0.05, places=["big"])
    with pytest.raises(ee.TuneError, match="early exits do not pay: ") as error:
        found.bundle(tmp_path / "late.ee", profile=BY)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    report = found.report
    assert report is not None
    assert report.pays is False
    assert msgspec.json.decode(msgspec.json.encode(report), type=AdaptReport) == report


WRONG: dict[str, tuple[dict[str, Any], type[ee.EEToolkitError], str]] = {
    "an unknown place": (
        {"places": ["max_pol2d"]},
        ee.ExportError,
        "the network has no place 'max_pol2d'; .*; did you mean 'max_pool2d'",
    ),
    "no places": ({"places": []}, ee.ExportError, "places is empty"),
    "an unknown kind": ({"kinds": ["avg"]}, ee.ExportError, "head is 'avg', expected mean, max"),
    "no kinds": ({"kinds": []}, ee.ExportError, "kinds is empty"),
    "a text": ({"places": "add_35"}, ee.ExportError, "places is 'add_35', expected a list, each a text or None"),
    "a share beyond 1": ({"distill": 1.5}, ee.ExportError, "distill is 1.5, expected 0 to 1"),
    "a negative drop": ({"max_accuracy_drop": -0.1}, ee.ExportError, "max_accuracy_drop is -0.1, expected 0 to 1"),
    "no exits": ({"max_exits": 0}, ee.ExportError, "max_exits is 0, expected at least 1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_refused_before_the_network_runs(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = digits_network()
    more, kind, message = WRONG[what]
    monkeypatch.setattr("eetoolkit.adapting.add_exits.gather_features", None)
    with pytest.raises(kind, match=message) as error:
        ee.add_exits(model, images, labels, **more)
    assert "\n" not in str(error.value)


def test_a_network_in_training_mode_is_refused_and_left_so() -> None:
    model, (images, labels) = digits_network()
    training = copy.deepcopy(model).train()
    assert isinstance(training, DigitsNetwork)
    with pytest.raises(ee.ExportError, match="the network is in training mode"):
        ee.add_exits(training, images, labels)
    assert all(module.training for module in training.modules())
