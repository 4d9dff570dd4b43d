"""The npm package reads, proves and refuses manifests as the Python runtime does, in the same words."""

from __future__ import annotations

import hashlib
import itertools
import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fuzz_web
import msgspec
import pytest
import test_plan
import test_validate
import test_validate_random
import web_reading
from plans import NETWORKS
from web_reading import each, refusal, refusals

from eetoolkit_runtime.plan.manifest import encode
from eetoolkit_runtime.plan.seal import seal
from eetoolkit_runtime.plan.types import Constant, Preprocess, TensorSpec
from eetoolkit_runtime.plan.validate import is_plain
from eetoolkit_runtime.printable import flat, printable

CONFORMANCE = Path(__file__).parents[1] / "runtime" / "conformance" / "cases"
CHARACTERS = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) not in ("Cn", "Cs")]
pytestmark = pytest.mark.skipif(bool(web_reading.why_not()), reason=web_reading.why_not())


def differences(manifests: Iterable[bytes]) -> list[str]:
    """Returns what the two say where it differs."""
    asked = list(manifests)
    pairs = zip(refusals(asked), map(refusal, asked), strict=True)
    return [f"{': '.join(found)}, expected {': '.join(expected)}" for found, expected in pairs if found != expected]


def rows_of(test: Any) -> list[Any]:
    """Returns the rows with which a test of Python's reader is parametrised."""
    return list(test.pytestmark[-1].args[1])


def test_it_takes_every_case_of_the_conformance_suite_and_refuses_another_digest() -> None:
    manifests = [path.read_bytes() for path in sorted(CONFORMANCE.glob("*/bundle/manifest.json"))]
    digit = slice(-5, -4)  # of the digest: `…"\n}\n` follows
    others = [text[: digit.start] + (b"0" if text[digit] != b"0" else b"1") + text[digit.stop :] for text in manifests]
    assert len(manifests) >= 38
    assert {kind for kind, _ in refusals(manifests)} == {"OK"}
    assert {kind for kind, _ in refusals(others)} == {"IntegrityError"}
    assert differences(others) == []


def test_it_takes_a_plan_of_each_kind() -> None:
    found = refusals([encode(build().plan()) for build in NETWORKS.values()])
    assert dict(zip(NETWORKS, found, strict=True)) == dict.fromkeys(NETWORKS, ("OK", ""))


def test_it_refuses_every_plan_that_python_refuses_in_the_same_words() -> None:
    manifests = [seal(msgspec.json.encode(build())) for build, _ in test_validate.CASES.values()]
    assert {kind for kind, _ in refusals(manifests)} == {"ManifestError"}
    assert differences(manifests) == []


def test_it_refuses_values_of_wrong_types_in_the_same_words() -> None:
    places = rows_of(test_plan.test_a_key_that_nobody_knows_is_refused_at_every_level)
    values = rows_of(test_plan.test_a_value_of_a_wrong_type_is_refused_with_its_place)
    sources = rows_of(test_plan.test_a_write_names_exactly_one_source)
    heads: Iterable[tuple[str, Any]] = itertools.product(
        ("version", "format", "optional", "digest"), (None, True, 1.0, "2", [3], {})
    )
    changes = [
        *heads,
        *((f"{place}surprise", 1) for place, _ in places),
        *((path, value) for path, value, _ in values if path != "version"),
        *(("segments/a/writes/y", source) for source in sources),
        *(("onnxruntime", value) for value in rows_of(test_plan.test_the_least_onnxruntime_is_two_numbers)),
    ]
    manifests = [seal(test_plan.changed(path, value)) for path, value in changes]
    manifests += [
        seal(json.dumps({key: value for key, value in test_plan.full().items() if key != missing}).encode())
        for missing in test_plan.full()
    ]
    assert differences(manifests) == []


def test_it_knows_which_values_a_constant_may_hold() -> None:
    wrong = rows_of(test_validate.test_a_constant_that_its_dtype_cannot_hold_is_refused)
    right = rows_of(test_validate.test_a_constant_that_its_dtype_holds_is_accepted)
    plans = [
        msgspec.structs.replace(test_validate.plain(), constants={"k": Constant(dtype=dtype, shape=(), data=(value,))})
        for dtype, value in (*wrong, *right)
    ]
    manifests = [seal(msgspec.json.encode(plan)) for plan in plans]
    assert differences(manifests) == []
    assert [kind for kind, _ in refusals(manifests)] == ["ManifestError"] * len(wrong) + ["OK"] * len(right)


def test_it_refuses_preprocessing_that_does_not_fit_its_input() -> None:
    changes = rows_of(test_validate.test_preprocess_that_does_not_fit_its_input_is_refused)
    shapes: list[tuple[int | str | None, ...]] = [
        ("batch", 2, 8, 8), ("batch", 8, 8, 2), ("batch", None, 8, 8), (1, "c", 9, 8), (1, 2, 8, "w"), (2,),
    ]  # fmt: skip
    manifests = [
        seal(
            msgspec.json.encode(
                msgspec.structs.replace(
                    test_validate.plain(),
                    inputs=(TensorSpec(name="x", dtype=dtype, shape=shape),),
                    preprocess={"x": Preprocess(layout=layout, resize=(8, 8), **options)},
                )
            )
        )
        for options, _ in changes
        for shape in shapes
        for layout in ("NCHW", "NHWC")
        for dtype in ("float32", "uint8")
    ]  # fmt: skip
    assert differences(manifests) == []


def test_it_judges_random_plans_as_python_does() -> None:
    manifests = [seal(msgspec.json.encode(test_validate_random.wild(seed))) for seed in range(300)]
    assert differences(manifests) == []
    assert {kind for kind, _ in refusals(manifests)} == {"OK", "ManifestError"}


def test_it_refuses_damaged_manifests_as_python_does() -> None:
    different, kinds = fuzz_web.differences(fuzz_web.damaged(1000, seed=0))
    assert different == []
    assert min(kinds[kind] for kind in ("OK", "ManifestError", "IntegrityError")) >= 5


def sealed(text: bytes) -> bytes:
    """Returns a text that need be no JSON with its digest; it has no white space, and its last byte is `}`."""
    return text[:-1] + b',"digest":"' + hashlib.sha256(text).hexdigest().encode() + b'"}'


def test_it_refuses_what_is_no_manifest() -> None:
    texts = ["", "[", "{}", "3", "[" * 100_000, '{"a":' * 100_000, "\ufeff{}", "{} {}", "1" * 9000]
    manifests = [text.encode() for text in texts]
    assert [kind for kind, _ in refusals(manifests)] == ["ManifestError"] * len(texts)
    assert [kind for kind, _ in map(refusal, manifests)] == ["ManifestError"] * len(texts)


def test_it_refuses_json_that_readers_differ_about() -> None:
    values = [
        b'"\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b"NaN", b"-Infinity", b"1e400", b"1" * 400, b"1" * 5000, b"01",
        b'"a\x1fb"', b'"\\x41"', b'{"a":1,"a":2}', b'{"\\u0061":1,"a":2}', b"[" * 2000 + b"]" * 2000, b"truex", b"[1,]",
    ]  # fmt: skip
    whole = json.dumps(test_plan.full(), separators=(",", ":")).encode()
    manifests = [sealed(whole.replace(b'["a note"]', b"[%s]" % value)) for value in values]
    assert [kind for kind, _ in refusals(manifests)] == ["ManifestError"] * len(values)
    assert [kind for kind, _ in map(refusal, manifests)] == ["ManifestError"] * len(values)


def test_it_takes_names_of_every_kind_as_keys_of_maps() -> None:
    titles = {"__proto__": "a", "1": "b", "0": "c", "": "d", "toString": "e", "\U0001f600\u00e9\x7f%41": "f"}
    plan = test_plan.full() | {"titles": titles, "notes": ['\u00e9%C3%A9\\"\U0001f600']}
    text = json.dumps(plan, ensure_ascii=False)
    assert refusals([seal(text.encode())]) == [("OK", "")]


def test_a_manifest_of_more_than_8_mib_is_refused_unread() -> None:
    assert differences([b" " * (8 << 20), b" " * ((8 << 20) + 1)]) == []


def test_text_is_made_printable_as_python_does() -> None:
    odd = ["\ud800", "a\n  b \r\n\tc", " \x1c\x85a\ufeff ", "it's", '"it\'s"', "\\"]
    texts = [*CHARACTERS, *odd]
    assert each("printable", texts) == list(map(printable, texts))
    assert each("flat", texts) == list(map(flat, texts))
    assert each("repr", texts) == list(map(repr, texts))


def test_the_same_names_are_plain() -> None:
    names = ["", ".", "..", ".writing.json", "manifest.json", "...", "a.b"]
    names += [
        name for character in CHARACTERS[:0x3100] for name in (f"{character}a", f"a{character}", f"a{character}a")
    ]
    assert each("isPlain", names) == list(map(is_plain, names))


def test_file_names_that_differ_only_in_case_are_the_same_ones() -> None:
    kinds: dict[str, set[str]] = defaultdict(set)
    for folded, character in zip(each("folded", CHARACTERS), CHARACTERS, strict=True):
        kinds[folded].add(character)
    expected: dict[str, set[str]] = defaultdict(set)
    for character in CHARACTERS:
        expected[character.casefold()].add(character)
    assert {frozenset(kind) for kind in kinds.values()} == {frozenset(kind) for kind in expected.values()}


def test_numbers_are_spelled_as_python_does() -> None:
    numbers = [0.0, -0.0, 0.5, -3.0, 1e-4, 1e-5, 1.5e-7, 123456789.0, 1e15, 1e16, 1.2e21, 1e22, 1e100, 5e-324, 1 / 3]
    assert each("reprFloat", numbers) == list(map(repr, numbers))
