"""What a stranger wrote is shown and not obeyed."""

from __future__ import annotations

import unicodedata

import pytest

from eetoolkit_runtime.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("exit0, größer 猫 😀", "exit0, größer 猫 😀"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\r\nerror: b\tc", "a\\r\\nerror: b\\tc"),
        ("\x07\x7f\x9b", "\\x07\\x7f\\x9b"),
        ("a\u202eb\u2066c\u2069", "a\\u202eb\\u2066c\\u2069"),
        ("a\u200bb\ufeff\u2028", "a\\u200bb\\ufeff\\u2028"),
        ("\udc80", "\\udc80"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_or_hide_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_every_control_and_format_character_is_escaped_and_nothing_twice() -> None:
    every = [chr(point) for point in range(0x110000)]
    bad = "".join(c for c in every if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp"))
    assert printable(bad).isascii()
    assert printable(bad).isprintable()
    assert printable(printable(bad)) == printable(bad)
