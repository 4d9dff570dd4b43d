"""What stands in for a Raspberry Pi's camera and microphone, and what they see and hear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import eetoolkit as ee

COLOURS = ("red", "green", "blue")
SIDE, RATE = 16, 16_000
CAMERA = """
import numpy as np

class Picamera2:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert self.started

    def create_video_configuration(self, main):
        assert main == {"size": (16, 16), "format": "BGR888"}
        return main

    def configure(self, configuration):
        self.frames = iter(np.load("frames.npy"))

    def start(self):
        self.started = True

    def capture_array(self):
        try:
            return next(self.frames)
        except StopIteration:
            raise KeyboardInterrupt from None
"""
RECORDER = (
    '#!/bin/sh\n[ "$*" = "--quiet --file-type raw --format S16_LE --channels 1 --rate 16000" ] && cat sound.raw\n'
)


class Colours(nn.Module):
    """Says which colour is strongest: at once where it is by far, else at its second exit."""

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        strength = picture.mean((2, 3))
        return strength, 10 * strength


def lay_out_camera(folder: Path, name: str) -> ee.Bundle:
    """Puts a bundle, a camera and its frames into a folder: red twice, a weak green, then blue."""
    frames = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    for number, (colour, strength) in enumerate(((0, 255), (0, 255), (1, 90), (2, 255))):
        frames[number, ..., colour] = strength
    np.save(folder / "frames.npy", frames)
    (folder / "picamera2.py").write_text(CAMERA)
    how = {"picture": {"layout": "NCHW", "resize": [SIDE, SIDE], "mean": [0.5], "std": [0.25]}}
    example = {"picture": torch.rand(1, 3, SIDE, SIDE)}
    return ee.export(Colours().eval(), example, folder / name, labels=COLOURS, preprocess=how, threshold=0.95)


def lay_out_microphone(folder: Path) -> None:
    """Puts a recorder and its sound into a folder: silence, a rising tone, silence, a falling one, silence."""
    parts = [_quiet(0.8), _sweep(400, 2800), _quiet(0.8), _sweep(2800, 400), _quiet(0.8)]
    (folder / "sound.raw").write_bytes((np.concatenate(parts) * 32767).astype("<i2").tobytes())
    recorder = folder / "arecord"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)


def _quiet(seconds: float) -> np.ndarray[Any, Any]:
    return np.zeros(round(seconds * RATE))


def _sweep(start_hz: float, end_hz: float, seconds: float = 0.8) -> np.ndarray[Any, Any]:
    frequency = np.linspace(start_hz, end_hz, round(seconds * RATE))
    return 0.3 * np.sin(2 * np.pi * np.cumsum(frequency) / RATE)
