"""How an extra is installed, for errors that name what is missing."""

from __future__ import annotations


def install(extra: str) -> str:
    """Returns what to do for the libraries of an extra."""
    return f"install the extra {extra!r} (README: Install)"
