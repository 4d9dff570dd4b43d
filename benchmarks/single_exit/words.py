"""Spoken words: made by eSpeak NG in many voices, some for each part, then echoed and mixed with noise."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.cases.archives import FetchError, cache
from benchmarks.single_exit.log_mel import SAMPLES_PER_SECOND, log_mel

WORDS: Final = (
    "yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go",
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
)  # fmt: skip
"""Of Warden 2018, "Speech Commands", section 5.2: commands and digits."""

ACCENTS: Final = (
    "en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-gb-x-gbcwmd", "en-029", "en-us-nyc",
)  # fmt: skip
VOICES: Final = {
    "train": (
        "Alex", "Andrea", "Andy", "Annie", "AnxiousAndy", "Denis", "Gene", "Gene2", "Hugo", "Jacky", "Marco", "Mario",
        "Michael", "Nguyen", "RicishayMax", "RicishayMax2", "RicishayMax3", "Storm", "adam", "antonio", "aunty",
        "belinda", "boris", "david", "edward", "edward2", "f1", "f3", "f5", "grandma", "gustave", "iven", "iven2",
        "iven3", "iven4", "john", "klatt", "klatt2", "klatt3", "m1", "m2", "m4", "m6", "m8", "marcelo", "max", "miguel",
        "pablo", "pedro", "quincy", "robert", "sandro", "steph", "steph2", "steph3", "victor",
    ),
    "fit": (
        "Diogo", "Lee", "anika", "benjamin", "ed", "f4", "grandpa", "klatt4", "klatt6", "m3", "m7", "norbert", "shelby",
    ),
    "test": (
        "Henrique", "Mike", "Tweaky", "caleb", "f2", "klatt5", "linda", "m5", "michel", "paul", "rob", "travis",
    ),
}  # fmt: skip
"""eSpeak NG's variants; none is in two parts."""


@dataclass(frozen=True)
class Settings:
    """What decides the rows of a part.

    Attributes:
        clips: Spoken for each word by each voice, each in another accent, speed and pitch.
        mixes: Rows made of each clip, each with noise of its own.
        words_per_minute: Least and most.
        pitches: Least and most, of eSpeak's 0 to 99.
        noise_db: Least and most of the signal over the noise.
        echo_seconds: The longest time in which an echo falls by 60 dB.
    """

    clips: int
    mixes: int
    words_per_minute: tuple[int, int] = (120, 260)
    pitches: tuple[int, int] = (15, 90)
    noise_db: tuple[float, float] = (6.0, 36.0)
    echo_seconds: float = 0.5
    seed: int = 0
    version: int = 1


def spoken(part: str, settings: Settings) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns log-mel energies (n, 40, 98) and labels (n,) of a part, from the cache or made now.

    Raises:
        FetchError: eSpeak NG is not installed.
    """
    text = json.dumps([part, repr(settings), WORDS, ACCENTS, VOICES[part], _espeak_version()])
    path = cache() / f"words-{part}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.npz"
    if not path.exists():
        features, labels = _make(part, settings)
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez(file, features=features.astype(np.float16), labels=labels)
        partial.replace(path)
    with np.load(path) as found:
        return found["features"].astype(np.float32), found["labels"]


def _espeak_version() -> str:
    """Returns such as `1.51`."""
    found = re.search(r"(\d+\.\d+\S*)", _run(["--version"]).decode())
    return found[1] if found else "?"


def _run(arguments: list[str]) -> bytes:
    program = shutil.which("espeak-ng")
    if program is None:
        raise FetchError("the words are spoken by eSpeak NG, which is not installed: `apt install espeak-ng`")
    return subprocess.run([program, *arguments], check=True, stdout=subprocess.PIPE).stdout


def _make(part: str, settings: Settings) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    random = np.random.default_rng([settings.seed, sorted(VOICES).index(part)])
    wanted, labels = [], []
    for voice in VOICES[part]:
        for label, word in enumerate(WORDS):
            for accent in random.permutation(len(ACCENTS))[: settings.clips]:
                speed, pitch = random.integers(*settings.words_per_minute), random.integers(*settings.pitches)
                wanted.append(["-v", f"{ACCENTS[accent]}+{voice}", "-s", str(speed), "-p", str(pitch), word])
                labels.append(label)
    with ThreadPoolExecutor(2) as pool:
        clips = list(pool.map(_speak, wanted))
    rows = [
        log_mel(_mix(clip, clips, settings, random)).astype(np.float16) for clip in clips for _ in range(settings.mixes)
    ]
    return np.stack(rows), np.repeat(np.array(labels, np.int64), settings.mixes)


def _speak(arguments: list[str]) -> NDArray[np.float32]:
    """Returns the samples of a word, silence around it cut off, no longer than a second."""
    with wave.open(io.BytesIO(_run(["--stdout", *arguments]))) as file:
        if file.getframerate() != SAMPLES_PER_SECOND:
            raise FetchError(f"eSpeak NG: got {file.getframerate()} samples a second, expected {SAMPLES_PER_SECOND}")
        samples = np.frombuffer(file.readframes(10 * SAMPLES_PER_SECOND), np.int16).astype(np.float32)
    loud = np.flatnonzero(np.abs(samples) > 0.02 * np.abs(samples).max())
    return samples[loud[0] : loud[-1] + 1][:SAMPLES_PER_SECOND]


def _mix(
    clip: NDArray[np.float32], clips: list[NDArray[np.float32]], settings: Settings, random: np.random.Generator
) -> NDArray[np.float32]:
    """Returns a second with the clip at some place in it, echoed, among noise of some colour and perhaps of voices."""
    echo = int(random.uniform(0.05, settings.echo_seconds) * SAMPLES_PER_SECOND)
    answer = random.standard_normal(echo) * 10 ** (-3 * np.arange(echo) / echo)
    answer[0] = random.uniform(3, 30)
    second = np.zeros(SAMPLES_PER_SECOND)
    start = random.integers(SAMPLES_PER_SECOND - len(clip) + 1)
    second[start : start + len(clip)] = clip
    second = _convolve(second, answer)
    power = np.mean(np.square(second[start : start + len(clip)]))
    noise = _coloured(random.uniform(0, 2), random)
    noise /= np.sqrt(np.mean(np.square(noise)))
    if random.random() < 0.5:
        voices = _babble(clips, random)
        noise += voices * (random.uniform(0.5, 2) / np.sqrt(np.mean(np.square(voices))))
    noise *= np.sqrt(power / np.mean(np.square(noise))) * 10 ** (-random.uniform(*settings.noise_db) / 20)
    return (second + noise).astype(np.float32)


def _convolve(samples: NDArray[np.float64], answer: NDArray[np.float64]) -> NDArray[np.float64]:
    size = 2 ** int(np.ceil(np.log2(len(samples) + len(answer))))
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(answer, size)
    return np.fft.irfft(spectrum, size)[: len(samples)]


def _coloured(slope: float, random: np.random.Generator) -> NDArray[np.float64]:
    """Returns a second of noise whose power falls as 1 / frequency ** slope."""
    spectrum = np.fft.rfft(random.standard_normal(SAMPLES_PER_SECOND))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    return np.fft.irfft(spectrum, SAMPLES_PER_SECOND)


def _babble(clips: list[NDArray[np.float32]], random: np.random.Generator) -> NDArray[np.float64]:
    """Returns a second of five words at once."""
    second = np.zeros(SAMPLES_PER_SECOND)
    for number in random.integers(len(clips), size=5):
        clip = clips[number]
        start = random.integers(SAMPLES_PER_SECOND - len(clip) + 1)
        second[start : start + len(clip)] += clip
    return second
