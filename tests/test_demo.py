"""The demo, run once as a user would, and its parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import plans
import pytest
from click.testing import CliRunner
from PIL import Image

import eetoolkit as ee
import eetoolkit.demo
from eetoolkit import demo_timing
from eetoolkit.cli import main
from eetoolkit.demo import DemoReport, ExitResult, Latency
from eetoolkit.demo_picture import check_picture, choose, draw
from eetoolkit.demo_timing import Runs, interleave
from eetoolkit_runtime.answer import Answer

EXITS = ["exit0", "exit1", "exit2"]


def answer(exit_: str, confidence: float, prediction: int = 0) -> Answer:
    return Answer({"logits": np.eye(10, dtype=np.float32)[[prediction]]}, exit_, confidence, ("segment0",), 3)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DemoReport]:
    """Returns the folder and the report of one whole demo."""
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo_timing, "ROUNDS", 1)
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
    assert report.digits == 450
    assert report.accuracy == right.mean()
    assert [exit_.left for exit_ in report.exits] == [sum(one.exit == name for one in found) for name in EXITS]
    assert sum(exit_.share for exit_ in report.exits) == pytest.approx(1)
    assert [exit_.accuracy_if_always for exit_ in report.exits] == [
        np.mean([one.prediction == label for one, label in zip(rows, test.labels, strict=True)]) for rows in always
    ]
    assert report.whole_accuracy == report.exits[-1].accuracy_if_always
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
    assert eetoolkit.demo._is_own_bundle(folder / "digits.ee")
    check_picture(folder / "demo.png")
    monkeypatch.chdir(tmp_path)
    plans.edit(plans.chain().save(tmp_path / "digits.ee"), name="digits")
    result = CliRunner().invoke(main, ["demo"])
    assert (result.exit_code, result.stderr) == (
        1,
        "error: digits.ee is a bundle that the demo did not make; it is left as it is: choose another --output\n",
    )
    (tmp_path / "notes.txt").write_text("mine")
    for path in ("notes.txt", "digits.ee"):
        result = CliRunner().invoke(main, ["demo", "--output", "other.ee", "--picture", path])
        assert result.exit_code == 1
        assert (
            result.stderr == f"error: {path} was not drawn by the demo; it is left as it is: choose another --picture\n"
        )
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
    for colour in ((0x1F, 0x8A, 0x7D), (0xC2, 0x37, 0x4D)):
        assert (pixels == colour).all(axis=1).sum() > 1000, "frames of early and late digits"


def test_picture_takes_sure_early_digits_and_unsure_late_ones() -> None:
    labels = np.array([0, 0, 1, 2, 2, 3])
    answers = [
        answer("exit0", 0.91), answer("exit0", 0.99), answer("exit0", 0.95), answer("exit2", 0.8), answer("exit2", 0.5),
        answer("exit1", 0.9),
    ]  # fmt: skip
    assert choose(labels, answers, EXITS) == ([1, 2], [4, 3, 5])


def test_picture_is_drawn_where_no_digit_went_deep(tmp_path: Path) -> None:
    draw(tmp_path / "demo.png", np.zeros((1, 8, 8)), np.array([0]), [answer("exit0", 0.9)], EXITS)
    check_picture(tmp_path / "demo.png")


def test_both_run_every_row_in_turns(tmp_path: Path) -> None:
    class Doubled:
        """Stands in for the whole network: the chain's last exit is x times 8."""

        def __init__(self) -> None:
            self.seen: list[float] = []

        def run(self, names: None, inputs: dict[str, Any]) -> list[Any]:
            self.seen.append(float(inputs["x"][0, 3]))
            return [inputs["x"] * 8]

    bundle = ee.load(plans.chain(0.5, 0.5).save(tmp_path / "chain.ee"))
    rows = np.concatenate([plans.row(0.9, 0, 0, 1), plans.row(0, 0.9, 0, 2), plans.row(0, 0, 0, 3)])
    session, told = Doubled(), list[tuple[str, int, int]]()
    runs = interleave(bundle, session, rows, 1, lambda *args: told.append(args))
    assert [one.exit for one in runs.answers] == EXITS
    assert runs.bundle_ms.shape == runs.whole_ms.shape == (3,)
    assert (runs.bundle_ms > 0).all()
    np.testing.assert_array_equal(runs.whole_logits, rows * 8)
    np.testing.assert_array_equal(runs.exit_logits, [rows * 2, rows * 4, rows * 8])
    assert all(session.seen.count(mark) == 2 + demo_timing.ROUNDS for mark in (1, 2, 3)), "answers, warm-up, rounds"
    assert told[-1] == ("running the digits", 3 * demo_timing.ROUNDS, 3 * demo_timing.ROUNDS)


def test_times_of_two_different_networks_are_not_compared() -> None:
    logits = np.ones((2, 10), np.float32)
    times = np.ones(2)
    eetoolkit.demo._check_same_network(Runs([], times, times, [logits * 9, logits], logits + 1e-6))
    with pytest.raises(ee.EEToolkitError, match=r"^the bundle's last exit and the whole network differ by 1\.0e\+00; "):
        eetoolkit.demo._check_same_network(Runs([], times, times, [logits, logits * 2], logits))


REPORT = DemoReport(
    bundle="digits.ee", picture="demo.png", size_bytes=830_051, segments=3, verified_samples=16, digits=450, threads=1,
    accuracy=0.996, whole_accuracy=0.998,
    exits=(ExitResult("exit0", 450, 1.0, 0.996, 0.976, 0.05), ExitResult("exit1", 0, 0.0, None, 0.99, None)),
    latency=Latency(0.05, 0.1), whole_latency=Latency(0.5, 0.55), speedup_mean=5.5, speedup_median=10.0,
)  # fmt: skip


def test_command_prints_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eetoolkit.demo, "demo", lambda output, picture, tell: REPORT)
    result = CliRunner().invoke(main, ["demo"])
    assert result.stderr == ""
    assert result.stdout.splitlines() == [
        "digits.ee: BranchyNet in 3 segments, 0.83 MB, verified on 16 samples",
        "demo.png: easy and hard digits, and where they left",
        "",
        "exit   left here   share  of these right  median latency  if all left here",
        "exit0        450  100.0%           99.6%        0.050 ms       97.6% right",
        "exit1          0    0.0%               -               -       99.0% right",
        "",
        "450 held-out digits, one at a time, 1 thread, both in one loop in turns:",
        "",
        "                            accuracy    median      mean",
        "early exits                    99.6%  0.050 ms  0.100 ms",
        "whole network, one session     99.8%  0.500 ms  0.550 ms",
        "speed-up                               10.00 x    5.50 x",
    ]
    found = json.loads(CliRunner().invoke(main, ["demo", "--json"]).stdout)
    assert found["exits"][1]["accuracy"] is None
    assert found["speedup_mean"] == 5.5
