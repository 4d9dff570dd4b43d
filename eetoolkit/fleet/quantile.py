"""A quantile of a fleet: the device that so many of a hundred are no slower than."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

from eetoolkit_runtime.errors import TuneError

_NAMED = {"median-device": "p50-device", "slowest-device": "p100-device"}
_SPELLED = re.compile(r"p(\d{1,3}(?:\.\d{1,6})?)-device", re.ASCII)


@dataclass(frozen=True)
class Quantile:
    """A quantile of a fleet, such as `p90-device`.

    Attributes:
        name: As it was asked for.
        share: Of the devices, above 0 and up to 1; exact, so that 55 % of 100 devices are 55.
    """

    name: str
    share: Fraction

    def rank(self, count: int) -> int:
        """Returns the rank from 1 on among so many devices, the cheapest first: the nearest rank.

        At least `share` of them are there or before. (Hyndman and Fan 1996, "Sample quantiles in statistical packages",
        definition 1.)
        """
        return math.ceil(self.share * count)


MEDIAN = Quantile("median-device", Fraction(1, 2))
P90 = Quantile("p90-device", Fraction(9, 10))
SLOWEST = Quantile("slowest-device", Fraction(1))


def read_quantile(text: str) -> Quantile:
    """Returns the quantile that a text names.

    Raises:
        TuneError: It names none; says what would.
    """
    found = _SPELLED.fullmatch(_NAMED.get(text, text))
    if found is not None and 0 < (share := Fraction(found[1]) / 100) <= 1:
        return Quantile(text, share)
    raise TuneError(
        f"for_={text!r} (--for {text}): expected pN-device with N above 0 and up to 100, such as p90-device, or "
        "median-device or slowest-device"
    )
