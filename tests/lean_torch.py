"""Torch without what costs the tests time and tells them nothing: a second thread, and tables made anew.

Two workers have two cores, so that further threads of torch's would wait for each other, which burns a core too. Its
table of ONNX functions and its list of operators are the same for every export, and two fifths of the time of a small
one; both are private to torch: where another version has neither, exports take as long as they do.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

_EXPORTER = "torch.onnx._internal.exporter._registration"
_OPERATORS = "torch._export.utils"


def settle() -> None:
    """Sees to what is imported by now; a test that needs no torch still imports none."""
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    exporter, operators = sys.modules.get(_EXPORTER), sys.modules.get(_OPERATORS)
    if exporter is None or operators is None or hasattr(exporter, "settled"):
        return
    exporter.settled = True  # type: ignore[attr-defined]
    registry: Any = getattr(exporter, "ONNXRegistry", None)
    if registry is not None:
        made = functools.cache(registry.from_torchlib)
        registry.from_torchlib = staticmethod(lambda **settings: _copy(made(**settings)))
    if (find := getattr(operators, "_materialize_cpp_cia_ops", None)) is not None:
        operators._materialize_cpp_cia_ops = functools.cache(find)  # type: ignore[attr-defined]


def _copy(registry: Any) -> Any:
    """Returns a registry that an export may add to."""
    found = copy.copy(registry)
    found.functions = {target: list(functions) for target, functions in registry.functions.items()}
    return found
