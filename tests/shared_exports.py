"""What torch makes anew for every export though it is the same each time, made once for all tests of a process.

Its table of ONNX functions and its list of operators are two fifths of the time of a small export. Both are private to
torch: where another version has neither, exports take as long as they do.
"""

from __future__ import annotations

import copy
import functools
import sys
from typing import Any

_EXPORTER = "torch.onnx._internal.exporter._registration"
_OPERATORS = "torch._export.utils"


def share() -> None:
    """Has later exports share them, once torch's exporter has been imported."""
    exporter, operators = sys.modules.get(_EXPORTER), sys.modules.get(_OPERATORS)
    if exporter is None or operators is None or hasattr(exporter, "shared_by_tests"):
        return
    exporter.shared_by_tests = True  # type: ignore[attr-defined]
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
