"""On the device: numpy, onnxruntime and msgspec are all that is imported.

It answers rows, then one row by a deadline, then the same row better and better.

    python examples/on_device.py BUNDLE ROWS.npy
"""

from __future__ import annotations

import sys

import numpy as np

from eetoolkit_runtime import DeadlineError, Runner


def main(bundle: str, rows: str) -> None:
    """Answers every row, then one row again as well as is possible in half a millisecond, then step by step."""
    images = np.load(rows)
    with Runner(bundle, threads=1) as runner:
        for number, image in enumerate(images):
            answer = runner.run(image[np.newaxis])
            print(f"row {number}: class {answer.prediction}, {answer}")

        runner.warmup()  # opens every segment: opening takes longer than running
        try:
            answer = runner.run(images[:1], deadline_ms=0.5)
            print(f"in time: class {answer.prediction}, stopped by {answer.stopped_by}")
        except DeadlineError as error:
            print(f"not in time: {error}")

        for better in runner.refine(images[:1]):
            print(f"so far: class {better.prediction} by {better.exit}, confidence {better.confidence:.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
