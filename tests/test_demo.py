"""The demo, run once as a user would, and its parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import plans
import pytest
from click.testing import CliRunner
from PIL import Image

import eetoolkit as ee
import eetoolkit.demo
from eetoolkit import zoo
from eetoolkit.cli import main
from eetoolkit.demo import DemoReport, pipeline
from eetoolkit.demo.exporting import load_system
from eetoolkit.demo.picture import check_picture, choose, draw
from eetoolkit_runtime.plan.types import ClassScores
from eetoolkit_runtime.profiling.costs import ExitCost, WholeCost
from eetoolkit_runtime.profiling.latency import QUANTILES, Latency
from eetoolkit_runtime.profiling.profile import Profile
from eetoolkit_runtime.running.answer import Answer

EXITS = ["exit0", "exit1", "exit2"]


def answer(exit_: str, confidence: float, prediction: int = 0) -> Answer:
    logits = np.eye(10, dtype=np.float32)[[prediction]]
    return Answer({"logits": logits}, exit_, confidence, ("segment0",), 3, scores=ClassScores(output="logits"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoReport]:
    """Returns the folder and the report of one whole demo."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "SECONDS", 0)
        report = eetoolkit.demo.demo(folder / "digits.ee", folder / "demo.png", tell=lambda *_: None)
    return folder, report


def test_report_is_what_the_bundle_itself_gives(whole: tuple[Path, DemoReport]) -> None:
    from eetoolkit.zoo.digits import digits

    folder, report = whole
    test = digits("test")
    with ee.Runner(folder / "digits.ee", threads=1) as runner:
        found = runner.run_batch(test.images / np.float32(16))
        always = [runner.run_batch(test.images / np.float32(16), exit_at=name) for name in EXITS]
    right = np.array([one.prediction for one in found]) == test.labels
    exits = report.profile.exits
    assert list(exits) == EXITS
    assert report.profile.rows == 450
    assert report.profile.accuracy == right.mean()
    assert [round(450 * cost.share) for cost in exits.values()] == [
        sum(one.exit == name for one in found) for name in EXITS
    ]
    assert sum(cost.share for cost in exits.values()) == pytest.approx(1)
    assert [cost.accuracy_if_always for cost in exits.values()] == [
        np.mean([one.prediction == label for one, label in zip(rows, test.labels, strict=True)]) for rows in always
    ]
    assert report.verified_samples == 8 + 8


def test_bundle_takes_pictures_and_reproduces_its_network(whole: tuple[Path, DemoReport]) -> None:
    from eetoolkit.zoo import branchynet

    folder, _ = whole
    bundle = ee.load(folder / "digits.ee")
    assert bundle.manifest.name == "digits"
    assert bundle.manifest.labels == tuple("0123456789")
    assert bundle.manifest.preprocess["image"].scale == pytest.approx(1 / 255)
    assert ee.verify(bundle, branchynet.load()).passed


def test_what_the_demo_wrote_it_replaces_and_nothing_else(
    whole: tuple[Path, DemoReport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = whole
    assert pipeline._is_own_bundle(folder / "digits.ee", "digits", load_system(zoo.find("branchynet")))
    check_picture(folder / "demo.png")
    monkeypatch.chdir(tmp_path)
    plans.edit(plans.chain().save(tmp_path / "digits.ee"), name="digits")
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stderr) == (
        1,
        "error: digits.ee is a bundle that the demo did not make; it is left as it is: choose another --output\n",
    )
    (tmp_path / "notes.txt").write_text("mine")
    for path, said in (
        ("notes.txt", "was not drawn by the demo; it is left as it is: choose another --picture"),
        ("digits.ee", "is a folder; name a file, such as digits.ee/NAME"),
    ):
        result = CliRunner().invoke(main, ["demo", "--output", "other.ee", "--picture", path])
        assert (result.exit_code, result.stderr) == (1, f"error: {path} {said}\n")
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert not (tmp_path / "other.ee").exists()


def test_picture_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    Image.new("L", (2, 2)).save(tmp_path / "demo.png")
    with pytest.raises(ee.EEToolkitError, match="was not drawn by the demo"):
        check_picture(tmp_path / "demo.png")
    with pytest.raises(ee.EEToolkitError, match=r"the folder .* does not exist$"):
        check_picture(tmp_path / "none" / "demo.png")


def test_picture_is_wide_and_colourful(whole: tuple[Path, DemoReport]) -> None:
    with Image.open(whole[0] / "demo.png") as picture:
        assert picture.info["Software"] == "eetoolkit demo"
        assert picture.width > 2 * picture.height
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for colour in ((0x1F, 0x8A, 0x7D), (0x4F, 0x6B, 0xD8)):
        assert (pixels == colour).all(axis=1).sum() > 1000, "frames of early and late digits"


def test_picture_takes_sure_early_digits_and_unsure_ones_of_the_deepest_exit() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3])
    answers = [
        answer("exit0", 0.91), answer("exit0", 0.99), answer("exit0", 0.95), answer("exit2", 0.8), answer("exit2", 0.5),
        answer("exit1", 0.9),
    ]  # fmt: skip
    assert choose(labels, answers, EXITS) == ([1, 2], [4, 3])


def test_picture_is_drawn_where_no_digit_went_deep(tmp_path: Path) -> None:
    draw(tmp_path / "demo.png", np.zeros((1, 8, 8)), np.array([0]), [answer("exit0", 0.9)], EXITS)
    check_picture(tmp_path / "demo.png")


@pytest.mark.parametrize(
    ("difference", "said"),
    [(1.0, r"differ by 1\.0e\+00: "), (None, "differ in shape: "), (float("nan"), "differ by nan: ")],
)
def test_times_of_two_different_networks_are_not_compared(difference: float | None, said: str, tmp_path: Path) -> None:
    found = ee.profile(plans.chain().save(tmp_path / "chain.ee"), plans.row(1), threads=1, seconds=0)
    whole = WholeCost(file="w.onnx", latency=found.expected, ratio=1, full_path_ratio=1, difference=1e-6)
    pipeline.check_same_network(msgspec.structs.replace(found, whole=whole))
    other = msgspec.structs.replace(whole, difference=difference)
    with pytest.raises(ee.EEToolkitError, match=f"^the bundle's last exit and the whole network {said}"):
        pipeline.check_same_network(msgspec.structs.replace(found, whole=other))


def latency(median_ms: float, mean_ms: float) -> Latency:
    quantiles = (median_ms,) * len(QUANTILES)
    return Latency(
        runs=450, mean_ms=mean_ms, robust_ms=mean_ms, p50_ms=median_ms, p90_ms=mean_ms, p99_ms=mean_ms, spread_ms=0,
        outliers=0, quantiles_ms=quantiles,
    )  # fmt: skip


def cost(share: float, accuracy: float | None, always: float, median_ms: float | None) -> ExitCost:
    call = None if median_ms is None else latency(median_ms, median_ms)
    return ExitCost(
        latency=None, segments_ms=None, call=call, called_ms=None, expected_ms=0, share=share, accuracy=accuracy,
        accuracy_if_always=always,
    )  # fmt: skip


def reported(folder: Path) -> DemoReport:
    """Returns a report of which every figure is known."""
    whole = WholeCost(file="whole.onnx", latency=latency(0.5, 0.55), ratio=1, full_path_ratio=1, difference=0)
    found: Profile = msgspec.structs.replace(
        ee.profile(plans.chain().save(folder / "reported.ee"), plans.row(1), threads=1, seconds=0),
        rows=450, accuracy=0.996, expected=latency(0.05, 0.1), whole=whole,
        exits={"exit0": cost(1.0, 0.996, 0.976, 0.05), "exit1": cost(0.0, None, 0.998, None)},
    )  # fmt: skip
    return DemoReport(
        model="branchynet", title="BranchyNet", bundle="digits.ee", picture="demo.png", size_bytes=830_051, segments=3,
        verified_samples=16, profile=found,
    )  # fmt: skip


def printed(monkeypatch: pytest.MonkeyPatch, report: DemoReport, *arguments: str) -> str:
    monkeypatch.setattr(eetoolkit.demo, "demo", lambda output, picture, model, tell: report)
    result = CliRunner().invoke(main, ["demo", *arguments])
    assert result.stderr == ""
    return result.stdout


def test_command_prints_the_report(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = reported(tmp_path)
    assert printed(monkeypatch, report).splitlines() == [
        "digits.ee: BranchyNet in 3 segments, 0.83 MB, verified on 16 samples",
        "demo.png: easy and hard digits, and where they left",
        "",
        "exit   left here   share  of these right  median latency  if all left here",
        "exit0        450  100.0%           99.6%        0.050 ms       97.6% right",
        "exit1          0    0.0%               -               -       99.8% right",
        "",
        "450 held-out digits, one at a time, 1 thread, both in one loop in turns:",
        "",
        "                            accuracy    median      mean",
        "early exits                    99.6%  0.050 ms  0.100 ms",
        "whole network, one session     99.8%  0.500 ms  0.550 ms",
        "speed-up                               10.00 x    5.50 x",
    ]
    found = json.loads(printed(monkeypatch, report, "--json"))
    assert found["profile"]["exits"]["exit1"]["accuracy"] is None
    assert found["profile"]["whole"]["latency"]["p50_ms"] == 0.5


def test_command_says_why_nothing_was_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = reported(tmp_path)
    alone = msgspec.structs.replace(report.profile, exits={"exit0": report.profile.exits["exit0"]})
    lines = printed(monkeypatch, replace(report, model="act", picture=None, profile=alone)).splitlines()
    assert lines[1:4] == ["no picture: all digits left at one exit", "", lines[3]]
    assert [line.split("  ")[0] for line in lines[6:]] == ["bundle", "whole network, one session", "speed-up"]


def test_another_system_is_shown_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["demo", "--model", "act", "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["act.ee"], "one exit: nothing to draw"
    bundle = ee.load(tmp_path / "act.ee")
    assert (found["model"], found["bundle"], found["picture"]) == (bundle.manifest.name, "act.ee", None)
    result = CliRunner().invoke(main, ["demo", "--model", "pondernet", "--output", "act.ee"])
    assert (result.exit_code, result.stderr) == (
        1,
        "error: act.ee is a bundle that the demo did not make; it is left as it is: choose another --output\n",
    )


def test_a_system_that_is_not_there_is_named_with_those_that_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CliRunner().invoke(main, ["demo", "--model", "skipnot"])
    assert (result.exit_code, result.stderr) == (
        1,
        f"error: the zoo has no 'skipnot'; it has {', '.join(zoo.names())}; did you mean 'skipnet'?\n",
    )
    monkeypatch.setattr("eetoolkit.zoo.system.CHECKPOINTS", tmp_path / "nowhere")
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path))
    result = CliRunner().invoke(main, ["demo", "--model", "act"])
    assert (result.exit_code, result.stderr) == (1, "error: act has no weights here: eetoolkit zoo train act\n")


def test_without_weights_in_the_package_the_network_is_trained_into_the_cache_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = zoo.find("branchynet").checkpoint
    monkeypatch.setattr("eetoolkit.zoo.system.CHECKPOINTS", tmp_path / "none")
    monkeypatch.setenv("EETOOLKIT_CACHE", str(tmp_path / "cache"))
    trained: list[str] = []

    def train(system: Any) -> None:
        trained.append(system.name)
        system.checkpoint.parent.mkdir(parents=True)
        system.checkpoint.write_bytes(shipped.read_bytes())

    def stop(*_: Any, **__: Any) -> None:
        raise ee.EEToolkitError("far enough")

    monkeypatch.setattr("eetoolkit.zoo.train.train", train)
    monkeypatch.setattr("eetoolkit.demo.exporting.export_system", stop)
    told: list[str] = []
    for _ in range(2):
        with pytest.raises(ee.EEToolkitError, match="far enough"):
            eetoolkit.demo.demo(tmp_path / "digits.ee", tmp_path / "demo.png", tell=lambda what, *_: told.append(what))
    assert trained == ["branchynet"]
    assert zoo.find("branchynet").checkpoint == tmp_path / "cache" / "zoo" / "branchynet.safetensors"
    assert told[0] == "training branchynet, once; its weights are not in the package"
