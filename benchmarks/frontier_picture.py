"""The frontier in docs/tuning.md, drawn of what its `tune` command does: `python -m benchmarks.frontier_picture`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import eetoolkit as ee
from eetoolkit.report.frontier import save_frontier
from eetoolkit.zoo import branchynet, digits

TARGET = Path(__file__).parents[1] / "docs" / "images" / "frontier.svg"


def main() -> None:
    """Exports the digits network, tunes it on 720 digits that were not trained on, and draws."""
    parts = [digits.digits(part) for part in ("validation", "test")]
    images = np.concatenate([part.images / 16 for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    with tempfile.TemporaryDirectory() as folder:
        bundle = ee.export(branchynet.load(), images[:1], Path(folder) / "digits.ee", labels=digits.LABELS)
        report = ee.tune(bundle, images, labels, max_accuracy_drop=0.01)
    print(report)
    print(save_frontier(report, TARGET, "svg", overwrite=True).name)


if __name__ == "__main__":
    main()
