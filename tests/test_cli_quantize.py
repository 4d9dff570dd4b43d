"""`eetoolkit quantize`: what reaches the library, what is printed of its report, and when it is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from plans import chain
from quantization_reports import edit, small
from shell import call

import eetoolkit as ee
from eetoolkit.cli import quantize as verb
from eetoolkit.cli import quantize_tables
from eetoolkit.cli.device import profiling_there
from eetoolkit.quantizing.report import QuantizationReport
from eetoolkit.reading.images import ImageOptions
from eetoolkit.reading.inputfiles import InputFile, read_files
from eetoolkit.remote import job, ssh

FILE = ("quantize", "b.ee", "--data", "data.npz", "-o", "out.ee")
X = np.arange(24, dtype=np.float32).reshape(6, 4)


@dataclass
class Asked:
    """What the verb asked of the library, and what it answers."""

    report: QuantizationReport = field(default_factory=small)
    given: tuple[Any, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)

    def quantize(self, *given: Any, **settings: Any) -> QuantizationReport:
        self.given, self.settings = given, settings
        settings["progress"]("calibrating", 1, 2)
        return self.report


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Returns what stands for the library, in a working directory with a bundle and rows."""
    monkeypatch.chdir(tmp_path)
    chain(0.5, 0.5).save(tmp_path / "b.ee")
    np.savez("data.npz", x=X, labels=np.arange(6) % 3)
    made = Asked()
    monkeypatch.setattr(ee, "quantize", made.quantize, raising=False)
    return made


def refused(*arguments: str, status: int = 1) -> str:
    done = call(*arguments)
    assert (done.exit_code, done.stdout) == (status, "")
    return done.stderr


def test_without_options_the_library_gets_its_defaults(asked: Asked) -> None:
    done = call(*FILE)
    assert done.exit_code == 0, done.output
    bundle, inputs, output, labels = asked.given
    assert (bundle.manifest.name, output) == ("drafted", "out.ee")
    np.testing.assert_array_equal(inputs["x"], X)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    told = dict(asked.settings)
    assert told.pop("progress") is not None
    assert told == {
        "max_disagreement": 0.01, "profile": None, "weights": "int8", "activations": "uint8", "reduce_range": False,
        "segments": None, "tune": False, "max_accuracy_drop": None, "seed": 0, "threads": None, "overwrite": False,
    }  # fmt: skip


def test_options_reach_the_library(asked: Asked) -> None:
    done = call(
        *FILE, "--max-disagreement", "0.05", "--profile", "p.json", "--profile", "q.json", "--activations", "int8",
        "--reduce-range", "--segments", "segment0, segment1", "--tune", "--max-accuracy-drop", "0.02", "--seed", "7",
        "--threads", "1", "--overwrite",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    given = {
        "max_disagreement": 0.05, "profile": ("p.json", "q.json"), "activations": "int8", "reduce_range": True,
        "segments": ["segment0", "segment1"], "tune": True, "max_accuracy_drop": 0.02, "seed": 7, "threads": 1,
        "overwrite": True,
    }  # fmt: skip
    assert {name: asked.settings[name] for name in given} == given
    assert call(*FILE, "--segments", "all").exit_code == 0
    assert asked.settings["segments"] == "all"


def test_labels_are_not_needed(asked: Asked) -> None:
    np.save("x.npy", X)
    assert call("quantize", "b.ee", "--data", "x.npy", "-o", "out.ee").exit_code == 0
    _, inputs, _, labels = asked.given
    np.testing.assert_array_equal(inputs, X)
    assert labels is None


def test_float16_needs_no_rows(asked: Asked) -> None:
    asked.report = edit(small(), weights="float16", exits=(), rows={})
    done = call("quantize", "b.ee", "-o", "out.ee", "--weights", "float16")
    assert done.exit_code == 0, done.output
    assert (asked.given[1], asked.given[3], asked.settings["weights"]) == (None, None, "float16")
    assert "float16, ms" in done.stdout
    assert "thresholds" not in done.stdout
    assert "on held-out rows  " not in done.stdout


def lines_of(*arguments: str, columns: int | None = None) -> list[str]:
    done = call(*arguments, columns=columns)
    assert done.exit_code == 0, done.output
    return [" ".join(line.split()) for line in done.stdout.splitlines()]


def test_every_figure_is_printed_with_what_it_is_of(asked: Asked) -> None:
    assert lines_of(*FILE) == [
        "0.52 times the time and 0.28 of the bytes of digits",
        "bundle digits-int8.ee",
        "bytes 81.0 kB, 0.28 of the float bundle's 0.29 MB",
        (
            "mean call 0.130 [0.125, 0.135] ms, 0.52 [0.50, 0.54] times the float bundle's 0.250 [0.240, 0.260] ms; in "
            "turns on held-out rows"
        ),
        "weights int8, static segments compute with uint8",
        "bound at every exit at most 1% of the answers differ; exceeded on held-out rows at exit1",
        "rows 100 calibrated the ranges, 200 chose what is quantised, 200 give every figure here (held-out)",
        "latencies those of a test",
        "note a note",
        (
            "next thresholds are those of the float bundle; "
            "`eetoolkit tune digits-int8.ee --data DATA --apply` chooses them anew"
        ),
        "",
        "segment method float, ms int8, ms bytes before bytes after remarks",
        "stem float 0.020 0.025 4,000 4,000 int8 is not faster",
        "body static 0.200 0.080 80,000 21,000 0.30% of what it reads saturates",
        "tail blockwise 0.400 0.240 200,000 52,000 float: Erf, Softmax",
        "robust means of a visit; int8 of a float segment: the best that was tried",
        "",
        "on held-out rows rows agreement accuracy before accuracy after shift p50 shift p99 within 1%",
        "exit0 200 100% [98.1%, 100%] 90.0% [85.0%, 93.5%] 90.0% [85.0%, 93.5%] 0.0000 0.0000 yes",
        "exit1 120 97.5% [92.9%, 99.15%] 95.0% [89.5%, 97.7%] 94.2% [88.4%, 97.2%] 0.0021 0.0312 exceeded",
        (
            "agreement: of the rows that meet the exit in either bundle; the others: in both; shift: how far its "
            "confidence moves"
        ),
    ]  # fmt: skip


def test_what_was_not_measured_is_not_printed(asked: Asked) -> None:
    plain = [edit(change, before=None, after=None) for change in asked.report.exits]
    untimed = [edit(each, before_ms=None, after_ms=None) for each in asked.report.segments]
    asked.report = edit(
        asked.report, exits=tuple(plain), segments=tuple(untimed), classes=False, before_ms=None, after_ms=None,
        ratio=None,
    )  # fmt: skip
    lines = lines_of(*FILE)
    bound = "bound at every exit at most 1% is the mean relative difference of its outputs"
    assert f"{bound}; exceeded on held-out rows at exit1" in lines
    assert "on held-out rows rows 1 - difference shift p50 shift p99 within 1%" in lines
    assert "body static - - 80,000 21,000 0.30% of what it reads saturates" in lines
    assert not any(line.startswith(("mean call", "robust means")) for line in lines)


def test_a_tuned_bundle_is_printed_with_its_figures(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_tables, "figures", lambda tuning: [("goal met", f"as {tuning} has it")])
    asked.report = edit(small(), tuning=SimpleNamespace(goal_met=True, thresholds={}))
    lines = lines_of(*FILE, "--tune")
    assert lines[-2:] == ["", "goal met as namespace(goal_met=True, thresholds={}) has it"]
    assert not any(line.startswith("next") for line in lines)


@pytest.mark.parametrize("columns", [80, 30])
def test_no_line_is_wider_than_the_terminal(asked: Asked, columns: int) -> None:
    lines = call(*FILE, columns=columns).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("body") for line in lines)


@pytest.mark.parametrize("pays", [True, False])
def test_json_and_the_page_are_written_whatever_the_verdict(
    asked: Asked, pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pages: list[Any] = []
    monkeypatch.setattr(ee, "write_report", lambda report, page, **_: pages.append((report, page)) or page)
    asked.report = small(pays)
    done = call(*FILE, "--json", "--report", "page.html")
    assert done.exit_code == 1 - pays
    assert msgspec.convert(json.loads(done.stdout), QuantizationReport) == small(pays)
    assert pages == [(small(pays), Path("page.html"))]


def test_where_nothing_pays_the_status_says_so(asked: Asked) -> None:
    asked.report = small(pays=False)
    done = call(*FILE)
    assert done.exit_code == 1
    assert done.stdout.startswith("no segment is faster with int8\nweights")
    assert done.stderr.endswith("error: no bundle was written: see above\n")


USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "no rows": (("quantize", "b.ee", "-o", "out.ee"), "pass --data, rows to calibrate by"),
    "no output": (("quantize", "b.ee", "--data", "data.npz"), "Missing option '-o' / '--output'"),
    "two costs": ((*FILE, "--profile", "p.json", "--on", "pi"), "--profile does not go with --on"),
    "a drop without tuning": ((*FILE, "--max-accuracy-drop", "0.01"), "--max-accuracy-drop goes with --tune"),
    "a bound above 1": ((*FILE, "--max-disagreement", "5"), "--max-disagreement"),
    "tuning without rows": (
        ("quantize", "b.ee", "-o", "out.ee", "--weights", "float16", "--tune"), "--tune needs --data",
    ),
    **{
        f"float16 and {option}": ((*FILE, "--weights", "float16", option, *value), f"{option} does not go with")
        for option, *value in (
            ("--activations", "int8"), ("--reduce-range",), ("--profile", "p.json"), ("--on", "pi@host"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_is_told(asked: Asked, case: str) -> None:
    arguments, said = USAGE[case]
    assert said in refused(*arguments, status=2)
    assert asked.given == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*FILE[:-1], "b.ee", "--overwrite"), "--output b.ee is what is read"),
        ((*FILE, "--report", "data.npz", "--overwrite"), "--report data.npz is what is read"),
        ((*FILE, "--report", "b.ee/page.html"), "lies in the bundle"),
        ((*FILE, "--report", "there.html"), "there.html exists"),
        ((*FILE, "--report", "nowhere/page.html"), "nowhere"),
        (("quantize", "b.ee", "--data", "none.npz", "-o", "out.ee"), "none.npz does not exist"),
    ],
)
def test_what_cannot_be_read_or_written_is_refused_before_any_work(
    asked: Asked, arguments: tuple[str, ...], said: str
) -> None:
    Path("there.html").touch()
    assert said in refused(*arguments).splitlines()[-1]
    assert asked.given == ()


# On another machine


@dataclass
class Device:
    """What stands for a machine behind ssh: it profiles here, and is told what it was asked."""

    jobs: list[job.Job] = field(default_factory=list)
    rows: list[InputFile] = field(default_factory=list)
    cleaned: int = 0
    code: int = 0

    def run_job(self, _: Any, given: job.Job, **__: Any) -> tuple[int, Mapping[str, bytes]]:
        self.jobs.append(given)
        if self.code:
            return self.code, {}
        assert given.bundle is not None
        paths = [str(path) for path in given.files.values()]
        self.rows = list(read_files(given.bundle.manifest, paths, ImageOptions(), None))  # type: ignore[arg-type]
        found = ee.profile(given.bundle, iter([row for file in self.rows for row in file.rows]), seconds=0, threads=1)
        return 0, {"profile.json": msgspec.json.encode(found)}

    def clean_up(self, _: Any) -> None:
        self.cleaned += 1


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    made = Device()
    monkeypatch.setattr(job, "run_job", made.run_job)
    monkeypatch.setattr(job, "clean_up", made.clean_up)
    monkeypatch.setattr(ssh, "Ssh", lambda target: target)
    return made


def test_bundles_are_profiled_on_another_machine_by_rows_of_the_data(
    asked: Asked, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[ee.Profile] = []

    def quantize(bundle: ee.Bundle, *_: Any, profile: Any, **__: Any) -> QuantizationReport:
        found.extend(profile(bundle) for _ in range(2))
        assert device.cleaned == 0
        return small()

    monkeypatch.setattr(ee, "quantize", quantize)
    monkeypatch.setattr(verb, "_ROWS_THERE", 3)
    done = call(*FILE, "--on", "pi@host", "--python", "python3.11", "--clean", "--threads", "1")
    assert done.exit_code == 0, done.output
    assert [profile.rows for profile in found] == [3, 3]
    assert (device.jobs[0].verb, device.jobs[0].python, device.jobs[0].clean) == ("profile", "python3.11", False)
    names = [f"row{number}.npz" for number in range(3)]
    assert list(device.jobs[0].files) == names
    expected = ["--output=profile.json", *(f"--inputs={name}" for name in names), "--threads=1"]
    assert list(device.jobs[0].arguments) == expected
    np.testing.assert_array_equal(np.concatenate([file.rows[0][0] for file in device.rows]), X[::2])
    assert device.cleaned == 1
    assert not any(path.exists() for path in device.jobs[0].files.values())


def test_a_machine_that_gives_no_profile_is_told_and_cleaned(asked: Asked, device: Device) -> None:
    device.code = 3
    there = profiling_there({}, (), on="pi@host", python="python3", clean=True, show=lambda *_: None)
    with pytest.raises(ee.DeviceError, match=r"^on pi@host: the profile ended with exit status 3$"), there as profile:
        profile(ee.load("b.ee"))
    assert device.cleaned == 1
    assert device.jobs[0].arguments == ("--output=profile.json",)
