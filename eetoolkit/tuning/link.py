"""The link to a server, as tuning takes it: what a request costs beside the segments that run behind it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import numpy as np

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.integrity import read_regular
from eetoolkit_runtime.errors import BundleError, TuneError, did_you_mean
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.printable import spell_figure
from eetoolkit_runtime.profiling.latency import Amount
from eetoolkit_runtime.profiling.link import LinkCost, Rate, took_ms
from eetoolkit_runtime.profiling.profile import Profile, decode

_LIMIT_BYTES = 16 << 20
_OF_PROFILES = "machine"
"""The key that tells a profile from a link."""
_SIZES = {"float32": 4, "float16": 2, "uint8": 1}
NUMBER_AND_CONFIDENCE_BYTES = 8 + 4
"""What an answer holds beside the exit's outputs: which exit it was, int64, and its confidence, float32."""


class Link(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request to a server costs, beside the segments that it runs.

    Attributes:
        round_trip_ms: A request that carries and computes next to nothing, headers included.
        up_mbit_s: Megabits a second to the server; None: so many that bytes cost nothing.
        down_mbit_s: From the server, likewise.
        request_ms: What the server takes for a request beside its segments: reading it, queueing, the answer.
        crossing: As what float32 tensors cross, as `split` takes it.
        encoded: How many bytes cross for one of a tensor: more than 1 where it is written as JSON.
    """

    round_trip_ms: Amount
    up_mbit_s: Rate | None = None
    down_mbit_s: Rate | None = None
    request_ms: Amount = 0.0
    crossing: Literal["float32", "float16", "uint8"] = "float32"
    encoded: Rate = 1.0

    def expected_ms(self, sent_bytes: int, received_bytes: int) -> float:
        """Returns what a request of so many bytes takes beside its segments."""
        moved_ms = took_ms(sent_bytes, self.up_mbit_s) + took_ms(received_bytes, self.down_mbit_s)
        return self.round_trip_ms + self.request_ms + self.encoded * moved_ms

    def sent_bytes(self, tensors: Iterable[Array]) -> int:
        """Returns how many bytes tensors are as they cross."""
        size = _SIZES[self.crossing]
        return sum(each.size * (size if each.dtype == np.float32 else each.itemsize) for each in tensors)

    def __str__(self) -> str:
        rates = [
            f"{way} {'too fast to tell' if rate is None else f'{spell_figure(rate, 4)} Mbit/s'}"
            for way, rate in (("up", self.up_mbit_s), ("down", self.down_mbit_s))
        ]
        more = [f"{spell_figure(self.request_ms)} ms a request at the server"] if self.request_ms else []
        more += [] if self.crossing == "float32" else [f"float32 cross as {self.crossing}"]
        more += [] if self.encoded == 1 else [f"{self.encoded:.3g} bytes for one of a tensor"]
        return ", ".join((f"round trip {spell_figure(self.round_trip_ms, 4)} ms", *rates, *more))


def read_link(given: Link | Profile | Mapping[str, Any] | str | os.PathLike[str]) -> Link | LinkCost:
    """Returns a link as it is given: itself, its figures, a profile that measured one, or a file of either.

    Raises:
        BundleError: There is no such file.
        TuneError: It is no link, or a profile without one.
    """
    if isinstance(given, Link):
        return _converted(msgspec.to_builtins(given), "link")  # types alone do not check the ranges
    if isinstance(given, Profile):
        return _measured(given, "this profile")
    if isinstance(given, Mapping):
        return _converted(dict(given), "link")
    path = absolute(given, BundleError)
    if path.is_dir():
        return _measured(Profile.read(path), f"the profile in {shown(path)}")
    try:
        text = read_regular(path, _LIMIT_BYTES)
    except FileNotFoundError as error:
        raise BundleError(f"{shown(path)} does not exist") from error
    except OSError as error:
        raise BundleError(f"cannot read {shown(path)}: {error.strerror or error}") from error
    try:
        keys = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TuneError(f"{shown(path)} is neither a link nor a profile: {error}") from error
    if isinstance(keys, dict) and _OF_PROFILES in keys:
        return _measured(decode(text, str(shown(path))), str(shown(path)))
    return _converted(keys, str(shown(path)))


def _measured(profile: Profile, what: str) -> LinkCost:
    if profile.link is None:
        raise TuneError(
            f"{what} has measured no link; pass one that has, or the link's figures: "
            '{"round_trip_ms": 20, "up_mbit_s": 10, "down_mbit_s": 10}'
        )
    return profile.link


def _converted(keys: Any, what: str) -> Link:
    if isinstance(keys, dict):
        for name in keys:
            if name not in Link.__struct_fields__:
                near = did_you_mean(name, Link.__struct_fields__)
                raise TuneError(
                    f"{what} is no link: no key {shortened(name)}; there are {', '.join(Link.__struct_fields__)}{near}"
                )
    try:
        return msgspec.convert(keys, Link)
    except msgspec.ValidationError as error:
        raise TuneError(f"{what} is {shortened(keys)}, no link: {error}") from error
