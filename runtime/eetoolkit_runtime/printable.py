"""Text that strangers wrote, for people to read: a bundle's names, labels and notes are such."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""Returns one line of text that a terminal shows and does not obey, with the rest escaped as Python would.

    Escaped is what Unicode counts as control, format or unassigned characters, lone surrogates, and separators other
    than the space: ESC becomes `\x1b`, a newline `\n`, what turns the direction of writing `\u202e`.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def cut(text: str, most: int) -> str:
    """Returns a text, at most so many characters of it, the last of them a sign where there are more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def flat(text: str) -> str:
    """Returns what was said in several lines as one that is printable."""
    return printable(" ".join(filter(None, map(str.strip, text.split("\n")))))


def spell_figure(value: float, digits: int = 3) -> str:
    """Returns a figure for people, to so many digits; a large one is whole and has no exponent."""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def spell_count(count: int, one: str, more: str) -> str:
    """Returns how many there are of what has one name alone and another among its like: `1 batch`, `2,000 batches`."""
    return f"{count:,} {one if count == 1 else more}"


def spell_size(size_bytes: int) -> str:
    """Returns a size as people write it: 711 bytes, 83.4 kB, 0.83 MB."""
    if size_bytes < 1000:
        return f"{size_bytes} bytes"
    return f"{size_bytes / 1e3:.1f} kB" if size_bytes < 1e5 else f"{size_bytes / 1e6:.2f} MB"
