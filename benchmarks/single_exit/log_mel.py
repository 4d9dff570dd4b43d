"""Log-mel energies of a second of sound, in plain numpy."""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

SAMPLES_PER_SECOND: Final = 22050  # eSpeak NG's
BANDS: Final = 40
FRAMES: Final = 98
_FRAME, _STEP = 551, 220  # 25 ms every 10 ms, as keyword spotters have it (Zhang et al. 2017, "Hello Edge", section 4)
_TRANSFORM = 1024
_LOWEST_HZ, _HIGHEST_HZ = 20.0, 8000.0


def log_mel(second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Returns (40, 98), bands by frames, of 22,050 samples; mean 0 and deviation 1 over all, so loudness is gone."""
    frames = np.lib.stride_tricks.sliding_window_view(second, _FRAME)[::_STEP]
    power = np.square(np.abs(np.fft.rfft(frames * np.hanning(_FRAME), _TRANSFORM)))
    energies = np.log(power @ _bands() + 1e-6 * power.mean())
    return ((energies - energies.mean()) / energies.std()).T.astype(np.float32)


@cache
def _bands() -> NDArray[np.float64]:
    """Returns (513, 40): triangles that are even on the scale 2595 log10(1 + f / 700) (O'Shaughnessy 1987)."""
    ends = 2595 * np.log10(1 + np.array([_LOWEST_HZ, _HIGHEST_HZ]) / 700)
    corners = 700 * (10 ** (np.linspace(*ends, BANDS + 2) / 2595) - 1)
    hertz = np.fft.rfftfreq(_TRANSFORM, 1 / SAMPLES_PER_SECOND)[:, np.newaxis]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    return np.maximum(0, np.minimum((hertz - low) / (middle - low), (high - hertz) / (high - middle)))
