"""The demo's picture: digits that left early above digits that went deep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eetoolkit.showing.style import FAINT, INK, WRONG, colours
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.outfile import check_file, writing
from eetoolkit_runtime.running.answer import Answer

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 10
_SOFTWARE = "eetoolkit demo"  # in the PNG's metadata, by which the demo knows its own picture


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
    left = [answer.exit for answer in answers]
    deepest = max(left, key=exits.index)
    palette = colours(len(exits))
    figure = Figure(figsize=(12, 4.3), dpi=150, facecolor="white")
    grid = figure.add_gridspec(2, _COLUMNS, left=0.015, right=0.985, top=0.89, bottom=0.14, hspace=0.98, wspace=0.22)
    for line, (chosen, title, count) in enumerate((
        (easy, "Easy digits leave early", f"{left.count(exits[0])} of {len(left)} left at {exits[0]}"),
        (hard, "Hard digits go deep", f"{left.count(deepest)} of {len(left)} went to {deepest}"),
    )):  # fmt: skip
        corner = grid[line, 0].get_position(figure)
        figure.text(corner.x0, corner.y1 + 0.035, title, fontsize=14, fontweight="bold", color=INK)
        figure.text(0.985, corner.y1 + 0.035, count, fontsize=11, color=FAINT, ha="right")
        for column, number in enumerate(chosen):
            colour = palette[exits.index(answers[number].exit)]
            axes = figure.add_subplot(grid[line, column])
            _draw_digit(axes, images[number], int(labels[number]), answers[number], colour)
    with writing(path, overwrite=True) as file:
        figure.savefig(file, format="png", metadata={"Software": _SOFTWARE})


def choose(labels: Array, answers: Sequence[Answer], exits: Sequence[str]) -> tuple[list[int], list[int]]:
    """Returns which digits are drawn: of each label one that left at once, and the least sure that went deepest."""
    depth = np.array([exits.index(answer.exit) for answer in answers])
    confidence = np.array([answer.confidence for answer in answers])
    surest_first = np.lexsort((-confidence, depth))
    easy = [
        int(of_label[0])
        for label in np.unique(labels)
        if (of_label := [number for number in surest_first if labels[number] == label and depth[number] == 0])
    ]
    hard = [int(number) for number in np.argsort(confidence, kind="stable") if depth[number] == max(1, depth.max())]
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
        (f"says {answer.prediction}", INK if right else WRONG, "normal" if right else "bold"),
        (f"label {label}", FAINT, "normal"),
    )
    for number, (text, ink, weight) in enumerate(lines):
        axes.annotate(text, (0.5, 0), (0, -6 - 12 * number), xycoords="axes fraction", textcoords="offset points",
                      ha="center", va="top", fontsize=9, color=ink, fontweight=weight)  # fmt: skip
