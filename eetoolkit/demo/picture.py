"""The demo's picture: digits that left early above digits that went deep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.outfile import check_file, writing
from eetoolkit_runtime.running.answer import Answer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 10
_SOFTWARE = "eetoolkit demo"  # in the PNG's metadata, by which the demo knows its own picture
_COLOURS = ("#1f8a7d", "#b7791f", "#c2374d")  # early to late
_INK, _FAINT, _WRONG = "#1f2933", "#7b8794", "#c81e1e"


def check_picture(path: Path) -> None:
    """Refuses to write over anything but an earlier picture of the demo.

    Raises:
        EEToolkitError: Something else is at `path`, or its folder is missing or closed.
    """
    from PIL import Image, UnidentifiedImageError

    check_file(path, overwrite=True)
    if not path.exists():
        return
    try:
        with Image.open(path) as picture:
            own = picture.info.get("Software") == _SOFTWARE
    except (UnidentifiedImageError, OSError):
        own = False
    if not own:
        raise EEToolkitError(f"{path} was not drawn by the demo; it is left as it is: choose another --picture")


def draw(path: Path, images: Array, labels: Array, answers: Sequence[Answer], exits: Sequence[str]) -> None:
    """Draws to `path`: above, of each label the digit that the first exit was surest of; below, what went deepest.

    Args:
        path: A PNG.
        images: (n, height, width).
        labels: (n,), 0..9.
        answers: Of each image.
        exits: All exits, first to last.
    """
    from matplotlib.figure import Figure

    easy, hard = choose(labels, answers, exits)
    first, last = (sum(answer.exit == name for answer in answers) for name in (exits[0], exits[-1]))
    figure = Figure(figsize=(12, 4.3), dpi=150, facecolor="white")
    grid = figure.add_gridspec(2, _COLUMNS, left=0.015, right=0.985, top=0.89, bottom=0.14, hspace=0.98, wspace=0.22)
    for line, (chosen, title, count) in enumerate((
        (easy, "Easy digits leave early", f"{first} of {len(answers)} left at {exits[0]}"),
        (hard, "Hard digits go deep", f"{last} of {len(answers)} went to {exits[-1]}"),
    )):  # fmt: skip
        left = grid[line, 0].get_position(figure)
        figure.text(left.x0, left.y1 + 0.035, title, fontsize=14, fontweight="bold", color=_INK)
        figure.text(0.985, left.y1 + 0.035, count, fontsize=11, color=_FAINT, ha="right")
        for column, number in enumerate(chosen):
            colour = _COLOURS[min(exits.index(answers[number].exit), len(_COLOURS) - 1)]
            axes = figure.add_subplot(grid[line, column])
            _draw_digit(axes, images[number], int(labels[number]), answers[number], colour)
    with writing(path, overwrite=True) as file:
        figure.savefig(file, format="png", metadata={"Software": _SOFTWARE})


def choose(labels: Array, answers: Sequence[Answer], exits: Sequence[str]) -> tuple[list[int], list[int]]:
    """Returns which digits are drawn: easy ones, one of each label where there is one, and hard ones."""
    depth = np.array([exits.index(answer.exit) for answer in answers])
    confidence = np.array([answer.confidence for answer in answers])
    surest_first = np.lexsort((-confidence, depth))
    easy = [
        int(of_label[0])
        for label in np.unique(labels)
        if (of_label := [number for number in surest_first if labels[number] == label and depth[number] == 0])
    ]
    deepest_first = np.lexsort((confidence, -depth))
    hard = [int(number) for number in deepest_first if depth[number] > 0]
    return easy[:_COLUMNS], hard[:_COLUMNS]


def _draw_digit(axes: Axes, image: Array, label: int, answer: Answer, colour: str) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5)
    right = answer.prediction == label
    lines = (
        (f"{answer.exit}, {answer.confidence:.3f}", colour, "bold"),
        (f"says {answer.prediction}", _INK if right else _WRONG, "normal" if right else "bold"),
        (f"label {label}", _FAINT, "normal"),
    )
    for number, (text, ink, weight) in enumerate(lines):
        axes.annotate(text, (0.5, 0), (0, -6 - 12 * number), xycoords="axes fraction", textcoords="offset points",
                      ha="center", va="top", fontsize=9, color=ink, fontweight=weight)  # fmt: skip
