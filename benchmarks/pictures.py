"""The pictures of README and docs: `python -m benchmarks.pictures`. Two are timed, so the machine should be quiet."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch

import eetoolkit as ee
from benchmarks import scale
from benchmarks.measure import RESULTS
from eetoolkit.demo.pipeline import demo
from eetoolkit.report.frontier import save_frontier
from eetoolkit.showing import profile_picture
from eetoolkit.zoo import branchynet, digits

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    """Draws what `demo`, `tune` and `profile` do with the digits network, and the stored results of `scale`."""
    parts = [digits.digits(part) for part in ("validation", "test")]
    images = np.concatenate([part.images / 16 for part in parts])
    labels = np.concatenate([part.labels for part in parts])
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        demo(folder / "digits.ee", IMAGES / "demo.png", tell=lambda *_: None)
        bundle = ee.export(branchynet.load(), images[:1], folder / "tuned.ee", name="digits", labels=digits.LABELS)
        save_frontier(
            ee.tune(bundle, images, labels, max_accuracy_drop=0.01), IMAGES / "frontier.svg", "svg", overwrite=True
        )
        whole = folder / "whole.onnx"
        torch.onnx.export(branchynet.load(), (torch.from_numpy(images[:1]),), whole, dynamo=True, verbose=False)
        profile = ee.profile(bundle, images[-450:], labels[-450:], threads=1, seconds=15, whole=whole)
        profile_picture.draw(profile, IMAGES / "profile.svg", "svg", overwrite=True)
    scale.draw(json.loads((RESULTS / "scale.json").read_text())["rows"])


if __name__ == "__main__":
    main()
