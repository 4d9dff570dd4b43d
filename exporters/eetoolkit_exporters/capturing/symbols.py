"""Names of dimensions that vary: safe, readable, and different where the dimensions are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping

import onnx_ir as ir

from eetoolkit_exporters.capturing.shapes import dims_of
from eetoolkit_exporters.graph import values_of

Dim = str | int | None

_OPERATORS = {"+": "_plus_", "*": "_times_", "//": "_over_", "/": "_over_"}
_NAME = re.compile(r"[^\W\d]\w*")
_OPERAND = re.compile(r"\b[^\W\d]\w*\b(?!\s*\()")  # and not a function's name
_SUM = re.compile(r"[\w\s+\-*/(),]+")
_UNNAMED = {"none", "unk", "unknown", "dynamic"}
"""What exporters write where they know no name; two such dimensions may differ in size."""


def is_named(text: str | None) -> bool:
    """Returns whether a file's word for a dimension names it; `?`, `-1` and `None` do not."""
    return text is not None and re.search(r"[^\W\d_]", text) is not None and text.strip().lower() not in _UNNAMED


def safe(text: str) -> str:
    """Returns a name that no reader takes for an expression or fails on: `seq len` is seq_len, `N/2` is N_over_2."""
    text = unicodedata.normalize("NFKC", text.strip())
    for sign, word in _OPERATORS.items():
        text = re.sub(rf"(?<=[\w)])\s*{re.escape(sign)}\s*(?=[\w(])", word, text)
    text = re.sub(r"\W+", "_", text).strip("_")
    return text if text and not text[0].isdigit() else f"size_{text}".rstrip("_")


def rename_symbols(graph: ir.Graph, names: Mapping[str, Dim]) -> None:
    """Renames the dimensions of every value, at every level.

    An expression of renamed ones (`2*seq`) is written with their names; one of others is not known.

    Args:
        graph: The graph.
        names: For each name a new one, or the size that it has.
    """
    for value in dict.fromkeys((*values_of(graph), *graph.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(dim, names) for dim in _dims(value.shape)])


def _dims(shape: ir.Shape) -> Iterator[Dim]:
    for size in dims_of(shape):
        yield None if isinstance(size, int) and size < 0 else size


def _renamed(dim: Dim, names: Mapping[str, Dim]) -> Dim:
    if not isinstance(dim, str):
        return dim
    if dim in names or not is_named(dim):
        return names.get(dim)
    if _NAME.fullmatch(dim):
        return dim
    parts = _OPERAND.findall(dim)
    if not parts or not _SUM.fullmatch(dim):
        return None
    if all(isinstance(names.get(part), str) for part in parts):
        return _OPERAND.sub(lambda match: str(names[match[0]]), dim)
    return dim if all(part in names.values() for part in parts) else None
