"""Whether a plan that is one ONNX file answers on this very machine as the source network did."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

import numpy as np
import onnxruntime as ort

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.archive import is_single_file
from eetoolkit_runtime.bundle.golden import Visit
from eetoolkit_runtime.errors import BundleError, InputError, IntegrityError, first_line, is_foreign
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.running.release import is_new_enough
from eetoolkit_runtime.running.sessions import SessionSettings
from eetoolkit_runtime.single_file.description import (
    Description,
    NumberedExit,
    description_path,
    is_description,
    read_description,
)
from eetoolkit_runtime.single_file.golden import RightSample, read_samples
from eetoolkit_runtime.verify import Tally, VerifyReport, choose_tolerance, difference


def is_one_file(place: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether something is the path of a plan that is one ONNX file, whole or not."""
    if not isinstance(place, str | os.PathLike) or Path(os.fspath(place)).suffix != ".onnx":
        return False
    path = Path(os.fspath(place))
    try:
        return path.is_file() and (is_single_file(path) or is_description(description_path(path)))
    except OSError:
        return False


@checked(InputError)
def verify_single_file(model: str | os.PathLike[str], *, tolerance: float | None = None) -> VerifyReport:
    """Returns how the answers of a plan that is one ONNX file compare with what the source framework computed.

    The file's digest is checked first, and that its thresholds are where its description says. Each golden sample is
    run as it is, and once more for each exit, with thresholds that let only that one fire.

    Args:
        model: NAME.onnx; its description NAME.json lies beside it.
        tolerance: None: the one stated there.

    Raises:
        ManifestError: The description is none.
        IntegrityError: A file is missing or another one, or onnxruntime does not open it.
        InputError: There are no golden samples, or `tolerance` is no finite number above 0.
    """
    path = absolute(model, BundleError)
    description = read_description(path)
    _check_thresholds(path, description)
    samples = read_samples(path, description)
    if description.golden is None:
        raise InputError(
            f"{shown(description_path(path))} has no golden samples; export the network with golden_inputs"
        )
    tolerance = choose_tolerance(tolerance, description.golden.tolerance)
    if not is_new_enough(description.onnxruntime):
        raise IntegrityError(
            f"{shown(path)} needs onnxruntime {description.onnxruntime} or newer, this is {ort.__version__}"
        )
    tally = Tally([exit_.name for exit_ in description.exits], tolerance)
    file = _OneFile(path, description)
    for number, sample in enumerate(samples):
        right = [sample.visits[place] for place in sample.right]
        tally.failures += _compare(tally, f"sample {number}", file, sample.inputs, right)
    changeable = any(exit_.threshold is not None for exit_ in description.exits)
    for exit_ in description.exits if changeable else ():
        visits = {number: visit for number, sample in enumerate(samples) if (visit := _at(sample, exit_, description))}
        file = _OneFile(path, description, at=exit_) if visits else file
        for number, visit in visits.items():
            what = f"sample {number} at {exit_.name}"
            tally.failures += _compare(tally, what, file, samples[number].inputs, [visit])
    return VerifyReport(tolerance, len(samples), tuple(tally.checks.values()), tuple(tally.failures))


def _at(sample: RightSample, exit_: NumberedExit, description: Description) -> Visit | None:
    """Returns what the file gives for a sample if only this exit may fire; None where that is not known."""
    if exit_.threshold is None and (description.fallback != "last" or sample.visits[-1].exit != exit_.name):
        return None
    visits = [visit for visit in sample.visits if visit.exit == exit_.name]
    return None if not visits else visits[0] if exit_.threshold is not None else visits[-1]


class _OneFile:
    """A session over the file.

    Args:
        path: The file.
        description: Its description.
        at: The only exit that may fire, whatever its confidence; None: the thresholds decide.
    """

    def __init__(self, path: Path, description: Description, at: NumberedExit | None = None) -> None:
        self._limits = {
            exit_.threshold.initializer: ort.OrtValue.ortvalue_from_numpy(
                np.array(-np.inf if exit_ == at else np.inf, np.float32)
            )
            for exit_ in description.exits
            if at is not None and exit_.threshold is not None
        }

        def add(options: ort.SessionOptions) -> None:
            for name, limit in self._limits.items():
                options.add_initializer(name, limit)

        self._session = SessionSettings(threads=1).open(str(path), str(shown(path)), adjust=add)
        self._exits = [exit_.name for exit_ in description.exits]
        self._outputs = [output.name for output in description.outputs]

    def run(self, inputs: Mapping[str, Array]) -> tuple[str, float, dict[str, Array]]:
        """Returns the name of the exit that answers, its confidence, and all outputs by name."""
        found = dict(zip(self._outputs, self._session.run(self._outputs, dict(inputs)), strict=True))
        number = int(found["exit"])
        return self._exits[number] if number >= 0 else "no exit", float(found["confidence"]), found


def _compare(tally: Tally, what: str, file: _OneFile, inputs: Mapping[str, Array], right: Sequence[Visit]) -> list[str]:
    """Counts the answer to a sample, of which each of `right` would be right, and returns what is wrong with it."""
    try:
        exit_, confidence, outputs = file.run(inputs)
    except Exception as error:
        if not is_foreign(error):
            raise
        return [f"{what}: {first_line(error)}"]
    expected = [visit for visit in right if visit.exit == exit_]  # a loop's exit is met several times
    if not expected:
        return [f"{what}: {exit_} answered, expected {right[0].exit}"]
    if len({visit.exit for visit in right}) > 1:
        tally.count(exit_, tie=1)
    nearest = min(
        expected, key=lambda visit: sum(difference(outputs[name], visit.outputs[name]) for name in visit.outputs)
    )
    return tally.compare(what, outputs, confidence, nearest)


def _check_thresholds(path: Path, description: Description) -> None:
    """Checks that each threshold's four bytes are where the description says.

    Raises:
        IntegrityError: They are not.
    """
    with path.open("rb") as file:
        for exit_ in description.exits:
            if exit_.threshold is None:
                continue
            file.seek(exit_.threshold.offset)
            if file.read(4) != np.array(exit_.threshold.value, "<f4").tobytes():
                raise IntegrityError(
                    f"{shown(description_path(path))}: the threshold of {exit_.name} is not at byte "
                    f"{exit_.threshold.offset} of {shown(path)}; pack the bundle again"
                )
