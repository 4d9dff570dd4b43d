"""The npm package's reader and Python's, fed with the same damaged manifests: both take one, or refuse it alike.

`python tests/fuzz_web.py MANIFESTS [SEED]` runs so many; `test_web_reading.py` runs some. A seed gives the same ones
each time. The first of which they say different things is kept as `fuzz-web`.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections import Counter
from pathlib import Path

import fuzzing
import msgspec
from plans import NETWORKS
from test_plan import full
from web_reading import refusal, refusals

from eetoolkit_runtime.files.json_keys import refuse_twice
from eetoolkit_runtime.plan.manifest import encode
from eetoolkit_runtime.plan.seal import seal

_AT_ONCE = 2000
_PIECES = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"-1", b"0", b"1.0", b"1e2", b"1e400", b"01", b"-",
    b"18446744073709551616", b"9007199254740993", b"\\ud800", b"\\ud83d\\ude00", b"\\u0000", b"\\u00e9", b"\\/", b" ",
    b'"never"', b'"always"', b'"kind":"gate"', b'"slot":"x"', b'"__proto__":1', b'"1":1,', b"NaN", b"[[[[[[[[", b"\xff",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b"\x7f", b"\x0c", b"%41", b"\xc2\x85", b"\xc3\xa9",
)  # fmt: skip
_SEAL = b',"digest":"'


def seeds() -> list[bytes]:
    """Returns whole manifests."""
    return [*(encode(build().plan()) for build in NETWORKS.values()), *[seal(json.dumps(full()).encode())] * 4]


def in_text(rng: random.Random, data: bytes) -> bytes:
    """Returns a manifest in whose text pieces were put, doubled or dropped; mostly with a right digest.

    Python's `seal` takes no text that is no JSON, so this digest is of the text as it stands.
    """
    text = json.dumps(json.loads(data), ensure_ascii=False, separators=(",", ":")).encode()
    found = bytearray(text.partition(_SEAL)[0])
    for _ in range(rng.choice((1, 1, 2))):
        at, size = rng.randrange(len(found) + 1), rng.randrange(1, 17)
        match rng.randrange(4):
            case 0:
                found[at : at + size] = rng.choice(_PIECES)
            case 1:
                del found[at : at + size]
            case 2:
                found[at:at] = found[at : at + size]
            case _:
                found[at:at] = rng.choice(_PIECES)
    if rng.random() < 0.1:
        return bytes(found) + b"}"
    return bytes(found) + _SEAL + hashlib.sha256(bytes(found) + b"}").hexdigest().encode() + b'"}'


def damaged(count: int, seed: int) -> list[bytes]:
    """Returns so many damaged manifests."""
    rng, whole = random.Random(seed), seeds()  # noqa: S311 - damage is no secret
    damages = (fuzzing.in_manifest, fuzzing.in_plan, in_text)
    return [rng.choice(damages)(rng, rng.choice(whole)) for _ in range(count)]


def differences(manifests: list[bytes]) -> tuple[list[tuple[bytes, str, str]], Counter[str]]:
    """Returns the manifests of which the two say different things, with both, and how often each class came.

    Of a text that is no sound JSON only the class counts: what is wrong with it each parser says in its own words, and
    where it is not all that is wrong, each finds another fault first.
    """
    different, kinds = [], Counter[str]()
    for manifest, found in zip(manifests, refusals(manifests), strict=True):
        expected = refusal(manifest)
        kinds[expected[0]] += 1
        loose = "at `$.batch`" in found[1] or not is_sound(manifest)  # a `batch` beyond 64 bits is a float to msgspec
        if found != expected and not (loose and found[0] == expected[0]):
            different.append((manifest, ": ".join(found), ": ".join(expected)))
    return different, kinds


def is_sound(text: bytes) -> bool:
    """Whether a text is JSON by the format's rules."""
    try:
        msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=refuse_twice)
    except (ValueError, RecursionError):
        return False
    return True


def main(count: int, seed: int = 0) -> None:
    """Runs so many, in parts."""
    met = Counter[str]()
    for part in range(0, count, _AT_ONCE):
        different, kinds = differences(damaged(min(_AT_ONCE, count - part), seed + part))
        met += kinds
        if different:
            Path("fuzz-web").write_bytes(different[0][0])
            sys.exit("\n".join(f"web    {found}\nPython {expected}" for _, found, expected in different[:9]))
    print(f"{count} manifests from seed {seed}: both say the same; {dict(met)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
