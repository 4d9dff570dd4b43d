"""Objects of a JSON text in which a key stands twice, of which most readers keep the last without a word."""

from __future__ import annotations


def refuse_twice(pairs: list[tuple[str, object]]) -> None:
    """Looks at the keys of one object, of which nothing is kept: an `object_pairs_hook` of `json`.

    Raises:
        ValueError: Names a key that stands twice.
    """
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen:
            raise ValueError(f"the key {name!r} stands twice in one object")
        seen.add(name)
