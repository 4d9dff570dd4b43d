"""What users call values: the torch module whose output one is, or a readable form of its name."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable

import onnx_ir as ir

from eetoolkit_exporters.capturing.torch_export import SCOPES
from eetoolkit_exporters.graph import fresh

_WRAPPERS = 2  # the exporter's empty path and our own wrapper, `module`


class ModuleNames:
    """The names of a graph's values by the modules in which torch traced its nodes.

    A module that is called more than once stands as `path:k`, k from 0, as it is called for the (k+1)-th time.
    """

    def __init__(self, nodes: Iterable[ir.Node]) -> None:
        self._scopes = {node: _scopes_of(node) for node in nodes}
        self._again = {scope.partition("@")[0] for scopes in self._scopes.values() for scope in scopes if "@" in scope}
        self._used: set[str] = set()

    def ends(self, value: ir.Value, readers: Iterable[ir.Node]) -> tuple[str, ...]:
        """Returns the modules whose output a value is, the outermost first: it is made in them and read outside."""
        inside = {scope for node in readers for scope in self._scopes.get(node, ())}
        return tuple(self._spelled(scope) for scope in self._own(value) if scope not in inside)

    def depth(self, value: ir.Value, readers: Iterable[ir.Node]) -> int:
        """Returns how deep the outermost module lies whose output a value is; an operation lies in its module."""
        ends = self.ends(value, readers)
        return _depth(ends[0]) if ends else max(map(_depth, self._own(value)), default=0) + 1

    def name(self, value: ir.Value, readers: Iterable[ir.Node]) -> str:
        """Returns a name that no other value got: the outermost module whose output it is, else its own in its module.

        Of a file's names what exporters put around the node's is left out: `/layer1/Relu_output_0` is `layer1/Relu`.
        """
        ends = self.ends(value, readers)
        readable = re.sub(r"_output_0$", "", str(value.name)).strip("/") or str(value.name)
        inside = "/".join([*map(self._spelled, self._own(value)[-1:]), readable])
        return fresh(ends[0] if ends else inside, self._used)

    def _own(self, value: ir.Value) -> tuple[str, ...]:
        producer = value.producer()
        return self._scopes.get(producer, ()) if producer is not None else ()

    def _spelled(self, scope: str) -> str:
        path, _, call = scope.partition("@")
        return f"{path}:{call or 0}" if path in self._again else path


def _scopes_of(node: ir.Node) -> tuple[str, ...]:
    """Returns the modules in which a node was traced, outermost first, as `path` or `path@call`."""
    written = node.metadata_props.get(SCOPES)
    return tuple(s.removeprefix("module.") for s in ast.literal_eval(written)[_WRAPPERS:-1]) if written else ()


def _depth(path: str) -> int:
    return path.count(".") + 1
