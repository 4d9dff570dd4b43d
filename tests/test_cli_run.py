"""`eetoolkit run`: arrays, pictures, folders and streams in; one line an answer out."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from plans import PER_ROW, ROW, Draft, chain, column, edit, leave, looped, row

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit_runtime.plan.types import Preprocess, SavedProfile

EARLY, LATE = row(0.9, 0, 0.25), row(0.1, 0.2, 0.75)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a chain whose confidences are columns of x, with labels."""
    folder = chain(0.5, 0.5).save(tmp_path_factory.mktemp("run") / "chain.ee")
    return edit(folder, labels=("cat", "dog", "bee"))


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a bundle that answers with the four pixels of a picture and is as sure as the brightest is bright."""
    draft = Draft({"image": ("float32", ("batch", 1, 2, 2))})
    draft.slot("sure", shape=PER_ROW)
    draft.slot("logits", shape=ROW)
    draft.segment(
        "only",
        """
        row = Constant<value_ints = [-1, 4]>()
        axes = Constant<value_ints = [1]>()
        logits = Reshape(image, row)
        sure = ReduceMax<keepdims = 0>(logits, axes)
        """,
        reads=["image"],
        writes=["logits", "sure"],
        exit=leave("last", "logits", "sure"),
    )
    draft.options = {"preprocess": {"image": Preprocess(layout="NCHW", resize=(2, 2))}}
    return draft.save(tmp_path_factory.mktemp("camera") / "camera.ee")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


def run(*arguments: str | Path, stdin: bytes = b"") -> Result:
    # A shared pool would make every later session of this test process with default options fail.
    return CliRunner().invoke(main, ["run", "--pool", "own", *map(str, arguments)], input=stdin)


def answers(*arguments: str | Path, stdin: bytes = b"") -> list[str]:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout.splitlines()


def refusal(*arguments: str | Path, stdin: bytes = b"") -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip()


def npy(*arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    for array in arrays:
        np.save(stream, array)
    return stream.getvalue()


def paint(path: Path, *pixels: int, size: tuple[int, int] = (2, 2), kind: str | None = None) -> Path:
    Image.fromarray(np.array(pixels, np.uint8).reshape(size)).save(path, format=kind)
    return path


def test_each_row_of_an_array_is_a_line_with_name_label_and_answer(bundle: Path, here: Path) -> None:
    np.save("rows.npy", np.concatenate([EARLY, LATE]))
    assert answers(bundle, "rows.npy") == [
        "rows.npy[0]: cat, exit0, confidence 0.9, 1 of 3 segments",
        "rows.npy[1]: bee, exit2, confidence 0.75, 3 of 3 segments",
    ]


def test_a_class_without_a_label_is_told_by_its_number(bundle: Path, here: Path) -> None:
    np.save("row.npy", row(0.9, 0, 0, 2.0))
    assert answers(bundle, "row.npy") == ["row.npy: class 3, exit0, confidence 0.9, 1 of 3 segments"]
    assert json.loads(answers(bundle, "row.npy", "--json")[0])["label"] is None


def test_arrays_by_name_and_several_files_keep_their_order(bundle: Path, here: Path) -> None:
    np.savez("named.npz", x=LATE)
    np.save("row.npy", EARLY)
    assert [line.split(":")[0] for line in answers(bundle, "named.npz", "row.npy", "named.npz")] == [
        "named.npz", "row.npy", "named.npz"
    ]  # fmt: skip


def test_json_is_one_object_a_line_and_outputs_come_on_request(bundle: Path, here: Path) -> None:
    np.save("rows.npy", np.concatenate([EARLY, LATE]))
    first, second = map(json.loads, answers(bundle, "rows.npy", "--json"))
    assert first == {
        "input": "rows.npy[0]", "prediction": 0, "label": "cat", "exit": "exit0", "confidence": pytest.approx(0.9),
        "path": ["segment0"], "segments": 3, "visits": {"segment0": 1}, "gates": [], "ponder_cost": None,
        "stopped_by": "exit", "remote": False,
    }  # fmt: skip
    assert second["path"] == ["segment0", "segment1", "segment2"]
    (first, _) = map(json.loads, answers(bundle, "rows.npy", "--json", "--outputs"))
    assert first["outputs"] == {"logits": [pytest.approx([1.8, 0, 0.5, 0])]}


def test_gates_and_repeated_visits_are_told_where_there_are_any(here: Path) -> None:
    looped().save(here / "looped.ee")
    np.save("row.npy", row(3, 0, 0, 0.5))
    (line,) = answers("looped.ee", "row.npy")
    assert line.endswith(", 2 of 2 segments, gates step=1,1,0, visits step=3")
    record = json.loads(answers("looped.ee", "row.npy", "--json")[0])
    assert record["gates"] == [["step", 1], ["step", 1], ["step", 0]]
    assert record["visits"] == {"step": 3, "head": 1}


def test_a_deadline_is_passed_on_and_told(here: Path) -> None:
    draft = chain(0.5, 0.5)
    draft.options["profile"] = SavedProfile(expected_ms={"segment1": 1e9})
    draft.save(here / "chain.ee")
    np.save("row.npy", LATE)
    (line,) = answers("chain.ee", "row.npy", "--deadline-ms", "1e8")
    assert line.endswith(" exit0, confidence 0.1, 1 of 3 segments, stopped by deadline")
    assert json.loads(answers("chain.ee", "row.npy", "--deadline-ms", "1e8", "--json")[0])["stopped_by"] == "deadline"
    result = run("chain.ee", "row.npy", "--deadline-ms", "0")
    assert result.exit_code == 2
    assert "--deadline-ms" in result.stderr


def test_a_row_without_an_answer_in_time_is_told_and_the_others_are_answered(here: Path) -> None:
    draft = chain(0.5, 0.5)
    draft.options["profile"] = SavedProfile(expected_ms={"segment0": 1e9})
    draft.save(here / "late.ee")
    np.save("rows.npy", np.concatenate([LATE, LATE]))
    result = run("late.ee", "rows.npy", "--deadline-ms", "5")
    assert (result.exit_code, result.stdout) == (1, "")
    first, second, last = result.stderr.splitlines()
    assert first.startswith("rows.npy[0]: no answer within deadline_ms 5")
    assert second.startswith("rows.npy[1]: ")
    assert last == "error: 2 of 2 rows had no answer in time"


def test_the_ponder_cost_is_told_where_an_exit_gives_one(here: Path) -> None:
    draft = chain()
    draft.slot("cost", shape=PER_ROW)
    found = draft.segments["segment0"]
    draft.segment(
        "segment0",
        f"{column('confidence', 0)}  h = Add(x, x)  cost = Add(confidence, confidence)",
        reads=["x"],
        writes={**found.writes, "cost": "cost"},
        exit=leave("exit0", "h0", "confidence0", 0.5, ponder_cost="cost"),
        next="segment1",
    )
    draft.save(here / "costly.ee")
    np.save("row.npy", row(0.75))
    assert answers("costly.ee", "row.npy")[0].endswith(", 1 of 3 segments, ponder cost 1.5")
    assert json.loads(answers("costly.ee", "row.npy", "--json")[0])["ponder_cost"] == 1.5


def test_confidence_that_is_no_number_is_null_in_json_and_is_warned_of(bundle: Path, here: Path) -> None:
    np.save("row.npy", np.concatenate([row(0, 0, np.nan), EARLY]))
    told = run(bundle, "row.npy", "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout.splitlines()[0])["confidence"] is None
    assert told.stderr == "warning: row.npy[0]: the confidence is NaN; look at this input\n"


def test_labels_beside_the_inputs_are_left_alone(bundle: Path, here: Path) -> None:
    rows = np.concatenate([EARLY, LATE])
    np.savez("x.npz", x=rows)
    np.savez("val.npz", image=rows, labels=[0, 2])
    plain = [line.replace("x.npz", "val.npz") for line in answers(bundle, "x.npz")]
    assert answers(bundle, "val.npz") == plain


def test_options_reach_the_runner(bundle: Path, here: Path) -> None:
    np.save("row.npy", EARLY)
    assert " exit1," in answers(bundle, "row.npy", "--exit-at", "exit1")[0]
    assert " exit2," in answers(bundle, "row.npy", "--threshold", "exit0=inf", "--threshold", "exit1=0.7")[0]
    assert " exit0," in answers(bundle, "row.npy", "--threads", "1", "--check", "full")[0]
    assert refusal(bundle, "row.npy", "--exit-at", "exit9") == "no exit 'exit9'; the exits are exit0, exit1, exit2"
    assert refusal(bundle, "row.npy", "--threshold", "exit2=0.1") == (
        "thresholds: 'exit2' ends the plan and accepts everything; it has no threshold"
    )


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {"threads": None, "pool": "shared", "check": "quick", "load": "lazy"}),
        (
            ["--threads", "3", "--pool", "own", "--check", "full", "--deadline-ms", "5"],
            {"threads": 3, "pool": "own", "check": "full", "load": "eager"},
        ),
    ],
)
def test_runner_is_made_as_the_options_say_and_shares_its_pool_by_default(
    bundle: Path, here: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], settings: dict[str, object]
) -> None:
    made: list[dict[str, object]] = []

    def record(path: str, **given: object) -> ee.Runner:
        made.append(given)
        raise ee.BundleError("far enough")

    monkeypatch.setattr(ee, "Runner", record, raising=False)
    np.save("row.npy", EARLY)
    assert CliRunner().invoke(main, ["run", str(bundle), "row.npy", *options]).stderr == "error: far enough\n"
    assert made == [settings | {"providers": None, "remote": None}]


def test_full_check_finds_what_quick_does_not(here: Path) -> None:
    np.save("row.npy", EARLY)
    folder = chain(weights=True).save(here / "weights.ee")
    weights = next(folder.glob("*.bin"))
    weights.write_bytes(bytes(byte ^ 1 for byte in weights.read_bytes()))
    assert len(answers(folder, "row.npy")) == 1
    told = weights.relative_to(here)
    assert refusal(folder, "row.npy", "--check", "full").startswith(f"{told}: sha256 ")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.5"], "'0.5': expected EXIT=VALUE"),
        (["--threshold", "exit0=high"], "'high' is not a number, or never"),
        (["--threshold", "exit0=1", "--threshold", "exit0=2"], "the exit 'exit0' is given twice"),
        (["--outputs"], "--outputs goes with --json"),
        (["--size", "8"], "'8': expected height and width in pixels, such as 224x224"),
        (["--mean", "0.1,b"], "'0.1,b': expected numbers such as 0.5, 1/255 or 0.485,0.456,0.406"),
        (["--std", "1/0"], "'1/0': expected numbers such as"),
        (["--scale", "1,2"], "expected one number for all channels"),
        (["--scale", "1e999"], "'1e999': expected numbers such as"),
        (["--std", "nan"], "'nan': expected numbers such as"),
    ],
)
def test_wrong_options_are_usage_errors(bundle: Path, options: list[str], message: str) -> None:
    result = run(bundle, "row.npy", *options)
    assert result.exit_code == 2
    assert message in result.stderr


def test_shape_that_lacks_the_batch_is_not_guessed(bundle: Path, here: Path) -> None:
    np.save("row.npy", EARLY[0])
    assert refusal(bundle, "row.npy") == (
        "row.npy: input 'x': got shape [4], expected x: float32[batch, 4]; add the batch dimension: x[None]"
    )


def test_files_that_are_nothing_we_read_are_named(bundle: Path, here: Path) -> None:
    (here / "notes.txt").write_text("hello world")
    (here / "empty.npy").touch()
    (here / "cut.npy").write_bytes(npy(EARLY)[:-3])
    (here / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.save("objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez("other.npz", y=EARLY, z=EARLY)
    assert refusal(bundle, "notes.txt") == "notes.txt: not a .npy, .npz, PNG or JPEG file: it starts with b'hello '"
    assert refusal(bundle, "empty.npy") == "empty.npy: not a .npy, .npz, PNG or JPEG file: it is empty"
    assert refusal(bundle, "cut.npy").startswith("cut.npy: not a readable .npy array (3 bytes are missing)")
    assert refusal(bundle, "cut.npz") == "cut.npz: not a readable .npz file (File is not a zip file)"
    assert refusal(bundle, "objects.npy").startswith(
        "objects.npy: not a readable .npy array (its dtype is object, expected numbers or texts)"
    )
    assert refusal(bundle, "other.npz") == "other.npz: got inputs ['y', 'z'], expected ['x']"
    assert refusal(bundle, "missing.npy") == "missing.npy does not exist"
    assert refusal(bundle, "").startswith("an input is named by an empty text; expected")
    assert refusal("row.npy", str(bundle)) == f"{bundle} is a bundle; expected inputs, which come after the bundle"


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are bytes on Linux")
def test_names_that_are_no_text_are_shown_escaped_and_a_bundle_of_such_a_name_is_refused(here: Path) -> None:
    rows, bundle = os.fsdecode(b"\xff.npy"), os.fsdecode(b"\xff.ee")
    np.save(rows, EARLY)
    chain().save(here / "text.ee")
    answered = run("text.ee", rows)
    assert answered.stdout.startswith("\\udcff.npy: ")
    assert json.loads(run("text.ee", rows, "--json").stdout)["input"] == "\\udcff.npy"
    chain().save(here / bundle)
    told = refusal(bundle, rows)
    assert told == f"segment 'segment0': onnxruntime opens no path that is not UTF-8; rename {here}/\\udcff.ee"


def test_answers_before_a_bad_file_are_kept(bundle: Path, here: Path) -> None:
    np.save("row.npy", EARLY)
    (here / "notes.txt").write_text("hello world")
    result = run(bundle, "row.npy", "notes.txt")
    assert result.exit_code == 1
    assert result.stdout.startswith("row.npy: cat, ")


def test_stdin_takes_one_array_after_the_other(bundle: Path) -> None:
    found = answers(bundle, "-", stdin=npy(EARLY, np.concatenate([EARLY, LATE])))
    assert [line.split(",")[0] for line in found] == ["stdin: cat", "stdin#1[0]: cat", "stdin#1[1]: bee"]


def test_stdin_that_ends_in_rubbish_is_refused_after_its_answers(bundle: Path) -> None:
    result = run(bundle, "-", stdin=npy(EARLY) + b"rubbish")
    assert result.stdout.startswith("stdin: cat")
    assert result.stderr == "error: stdin: what follows array 1 is not a .npy array: it starts with b'rubbis'\n"


def test_stdin_takes_a_picture_and_a_npz(bundle: Path, camera: Path, here: Path) -> None:
    np.savez("named.npz", x=LATE)
    assert answers(bundle, "-", stdin=Path("named.npz").read_bytes())[0].startswith("stdin: bee")
    picture = paint(here / "a.png", 0, 51, 0, 255)
    assert answers(camera, "-", stdin=picture.read_bytes()) == ["stdin: class 3, last, confidence 1, 1 of 1 segments"]


def test_a_folder_is_its_pictures_sorted_by_name(camera: Path, here: Path) -> None:
    folder = here / "pictures"
    folder.mkdir()
    for name in "gfedcb":
        paint(folder / f"{name}.png", 0, 255, 0, 0)
    paint(folder / "a.JPG", 255, 255, 255, 255, kind="jpeg")
    (folder / "readme.txt").write_text("no picture")
    found = answers(camera, "pictures")
    names = ["a.JPG", *(f"{name}.png" for name in "bcdefg")]
    assert [line.split(":")[0] for line in found] == [str(Path("pictures", name)) for name in names]
    assert "class 1, last, confidence 1," in found[1]
    (here / "none").mkdir()
    assert refusal(camera, "none") == "none: no pictures in this folder; expected .jpeg, .jpg, .png"


def test_options_for_pictures_replace_what_the_bundle_says(camera: Path, here: Path) -> None:
    paint(here / "a.png", 0, 0, 0, 100)
    own, scaled = (
        json.loads(answers(camera, "a.png", "--json", "--outputs", *more)[0])["outputs"]["logits"][0]
        for more in ([], ["--scale", "1/50", "--mean", "1", "--std", "0.5"])
    )
    assert own == pytest.approx([0, 0, 0, 100 / 255])
    assert scaled == pytest.approx([-2, -2, -2, 2])


def test_options_for_pictures_are_refused_for_arrays(bundle: Path, here: Path) -> None:
    np.save("row.npy", EARLY)
    assert refusal(bundle, "row.npy", "--scale", "2") == (
        "row.npy: an array is taken as it is; --size, --scale, --mean, --std and --layout are for pictures"
    )


def test_a_picture_for_a_bundle_with_several_inputs_is_refused(here: Path) -> None:
    draft = Draft({"x": ("float32", ROW), "image": ("float32", ROW)})
    draft.slot("sure", shape=PER_ROW)
    draft.segment(
        "only", "zero = Constant<value_int = 0>()  sure = Gather<axis = 1>(x, zero)  logits = Add(x, image)",
        reads=["x", "image"], writes=["sure", "logits"], exit=leave("last", "logits", "sure"),
    )  # fmt: skip
    folder = draft.save(here / "two.ee")
    paint(here / "a.png", 1, 2, 3, 4)
    assert refusal(folder, "a.png") == "a.png: a picture is one input, the bundle has 2 (x, image); pass a .npz"
    np.savez("both.npz", x=EARLY, image=EARLY)
    assert answers(folder, "both.npz") == ["both.npz: class 0, last, confidence 0.9, 1 of 1 segments"]


def test_missing_pillow_names_the_extra(camera: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paint(here / "a.png", 1, 2, 3, 4)
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    assert (
        refusal(camera, "a.png") == "a.png: reading pictures needs Pillow: install the extra 'images' (README: Install)"
    )
