"""Python and torch without what costs the tests time and tells them nothing.

Two workers have two cores, so that further threads of torch's would wait for each other, which burns a core too. Its
table of ONNX functions and its list of operators are the same for every export, and two fifths of the time of a small
one; another tenth is the evaluation of an annotation, anew at each of the ten thousand kernels that an export
registers. Control flow is traced twice more at each level, only to see that training writes into none of its inputs:
half of the time where branches are nested. A tenth is the stack trace of every node, which nobody here reads. The
optimizer lists all nodes anew for each rule of several outputs at each node, most of which cannot be its first.
All of this but stack traces is private to torch and onnxscript: where another version has none of it, exports take as
long as they do. The bundles are the same to the byte.
Python looks for cycles less often, since nearly all that it looks through are torch's modules.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import importlib
import sys
from collections.abc import Callable
from typing import Any

_EXPORTER = "torch.onnx._internal.exporter._registration"
_OPERATORS = "torch._export.utils"
_KERNELS = "torch._ops"
_MATCHER = "onnxscript.rewriter._matcher"
_CONTROL_FLOW = {"torch._higher_order_ops.cond": "cond_op", "torch._higher_order_ops.while_loop": "while_loop_op"}
_COLLECTED_AFTER = (20_000, 20, 20)
"""Of `gc.set_threshold`; Python's own are 700, 10 and 10."""


def expect_exports() -> None:
    """Imports, where torch is, what exports will: the first one takes no longer than the others then."""
    if "torch" in sys.modules:
        for name in (_EXPORTER, _OPERATORS, _KERNELS, _MATCHER, *_CONTROL_FLOW):
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    settle()


def settle() -> None:
    """Sees to what is imported by now; a test that needs no torch still imports none."""
    gc.set_threshold(*_COLLECTED_AFTER)
    if (torch := sys.modules.get("torch")) is not None and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    exporter, operators, kernels = (sys.modules.get(name) for name in (_EXPORTER, _OPERATORS, _KERNELS))
    if exporter is None or operators is None or hasattr(exporter, "settled"):
        return
    exporter.settled = True  # type: ignore[attr-defined]
    sys.modules["torch.fx"].config.do_not_emit_stack_traces = True
    for module, name in _CONTROL_FLOW.items():
        operator = getattr(sys.modules.get(module), name, None)
        if hasattr(operator, "_supports_training_input_mutation"):
            operator._supports_training_input_mutation = True
    registry: Any = getattr(exporter, "ONNXRegistry", None)
    if registry is not None:
        original = registry.from_torchlib
        made = functools.cache(lambda _quantises, **settings: original(**settings))
        registry.from_torchlib = staticmethod(
            lambda **settings: _copy(made("torchao" in sys.modules, **settings))  # which brings operators of its own
        )
    if (find := getattr(operators, "_materialize_cpp_cia_ops", None)) is not None:
        operators._materialize_cpp_cia_ops = functools.cache(find)  # type: ignore[attr-defined]
    if hasattr(operator := getattr(kernels, "OperatorBase", None), "py_impl"):
        operator.py_impl = _registered_as(operator.py_impl, kernels.DispatchKey)
    matcher = getattr(sys.modules.get(_MATCHER), "SimplePatternMatcher", None)
    if matcher is not None and hasattr(matcher, "match"):
        matcher.match = _matched_by_first(matcher.match, sys.modules[_MATCHER])


def _copy(registry: Any) -> Any:
    """Returns a registry that an export may add to."""
    found = copy.copy(registry)
    found.functions = {target: list(functions) for target, functions in registry.functions.items()}
    return found


def _registered_as(original: Callable[..., Any], keys: Any) -> Callable[..., Any]:
    """Returns `OperatorBase.py_impl`, which does the same for a dispatch key that has no kernel yet."""

    def py_impl(self: Any, key: Any) -> Callable[[Any], Any]:
        if not isinstance(key, keys) or key == keys.Python or key in self.py_kernels:
            return original(self, key)

        def register(kernel: Any) -> Any:
            self.py_kernels[key] = kernel
            self._dispatch_cache.clear()
            return kernel

        return register

    return py_impl


def _matched_by_first(original: Callable[..., Any], module: Any) -> Callable[..., Any]:
    """Returns `SimplePatternMatcher.match`, which sees at once that a node is not the first of several outputs."""

    def match(self: Any, model: Any, graph: Any, node: Any, **settings: Any) -> Any:
        outputs = self.pattern.output_nodes
        if len(outputs) > 1 and outputs[0].op_identifier() not in (None, node.op_identifier()):
            return module._basics.MatchResult().fail("No match found.")
        return original(self, model, graph, node, **settings)

    return match
