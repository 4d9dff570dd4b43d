"""Listens to a microphone with the recurrent network of `examples/keyword_spotting.py`.

It hears rising tones and falling ones: whistle from 0.4 to 2.8 kHz within 0.8 seconds, or back.
Sound comes from `arecord`, which Raspberry Pi OS has. Whatever the network must remember goes out of one run and into
the next. It needs the device half alone.

    python microphone.py spotter.ee
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from eetoolkit_runtime import Runner

RATE, FRAME = 16_000, 800
"""Samples a second, and in each frame of 50 ms."""
FRAMES, EDGES_HZ = 8, np.linspace(400, 2800, 9)
QUIET = 1.0
"""Energy of a frame that counts as half silence: a tone of 0.4 % of full scale."""
RECORD = ("arecord", "--quiet", "--file-type", "raw", "--format", "S16_LE", "--channels", "1", "--rate", str(RATE))


def bands(samples: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Returns each frame's share of energy by band, float32 (1, FRAMES, bands), of int16 samples (FRAMES * FRAME)."""
    frames = samples.reshape(FRAMES, FRAME) / 32768 * np.hanning(FRAME)
    energy = np.abs(np.fft.rfft(frames)) ** 2
    place = np.digitize(np.fft.rfftfreq(FRAME, 1 / RATE), EDGES_HZ)
    sums = np.stack([energy[:, place == band].sum(1) for band in range(1, len(EDGES_HZ))], 1)
    return (sums / (sums.sum(1, keepdims=True) + QUIET)).astype(np.float32)[np.newaxis]


def chunks() -> Iterator[np.ndarray[Any, Any]]:
    """Yields int16 samples (FRAMES * FRAME), as they are recorded."""
    size = 2 * FRAMES * FRAME
    with subprocess.Popen(RECORD, stdout=subprocess.PIPE) as recorder:
        assert recorder.stdout is not None
        while len(sound := recorder.stdout.read(size)) == size:
            yield np.frombuffer(sound, np.int16)


def main(bundle: str) -> None:
    """Prints what it hears until Ctrl-C."""
    with Runner(bundle, threads=1) as runner:
        plan = runner.bundle.manifest
        state = {
            spec.name: np.zeros([dim if isinstance(dim, int) else 1 for dim in spec.shape], spec.dtype)
            for spec in plan.inputs
            if spec.name != "sound"
        }
        for samples in chunks():
            answer = runner.run({"sound": bands(samples), **state})
            state = {name: answer.outputs[name] for name in state}
            if answer.prediction:  # 0 is nothing
                print(plan.labels[answer.prediction], answer, flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
