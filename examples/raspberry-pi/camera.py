"""Answers what the camera of a Raspberry Pi sees, frame by frame, and prints each new class.

The bundle's `preprocess` says how a frame becomes the network's input; the camera's own hardware resizes it. It needs
`picamera2`, which comes with Raspberry Pi OS, and the device half.

    python camera.py BUNDLE
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import numpy as np
from picamera2 import Picamera2

from eetoolkit_runtime import Runner


def row_of(frame: np.ndarray[Any, Any], layout: str, scale: float, mean: Any, std: Any) -> np.ndarray[Any, Any]:
    """Returns a frame, uint8 (height, width, 3), as one float32 row of the layout."""
    pixels = (frame * np.float32(scale) - np.float32(mean)) / np.float32(std)
    return np.ascontiguousarray(pixels if layout == "NHWC" else pixels.transpose(2, 0, 1))[np.newaxis]


def main(bundle: str) -> None:
    """Answers frames until Ctrl-C."""
    with Runner(bundle, load="background") as runner, Picamera2() as camera:
        ((name, how),) = runner.bundle.manifest.preprocess.items()
        height, width = how.resize
        size = {"size": (width, height), "format": "BGR888"}  # picamera2's name for pixels that lie as red, green, blue
        camera.configure(camera.create_video_configuration(main=size))
        camera.start()
        labels, seen = runner.bundle.manifest.labels, None
        while True:
            row = row_of(camera.capture_array(), how.layout, how.scale, how.mean, how.std)
            answer = runner.run({name: row})
            if answer.prediction != seen:
                seen = answer.prediction
                print(labels[seen] if labels and seen is not None else seen, answer, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
