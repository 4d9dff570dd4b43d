"""What runs a segment's graph: bound once to places for its tensors, then called often."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import onnxruntime as ort

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.running.tensors import Cell


class Bound(NamedTuple):
    """A graph with its tensors in known places.

    Attributes:
        call: Runs it, given `argument` and the run's options.
        argument: What it is bound with.
        owner: Must live as long as `argument` is used.
    """

    call: Callable[[Any, Any], None]
    argument: Any
    owner: Any


class Executor(Protocol):
    """Runs the graph of one segment, on this machine or elsewhere.

    Attributes:
        may_loop: Whether the graph may have a loop, so that a run may take any time.
    """

    may_loop: bool

    def bind(self, inputs: Mapping[str, Cell], outputs: Mapping[str, Cell]) -> Bound:
        """Returns what reads the inputs' cells and leaves each output in its cell, by the graph's own names.

        A call fills the buffer of a fixed cell and sets another one to a tensor of its own. It raises what onnxruntime
        raises, or an `EEToolkitError`, and ends early where the options' `terminate` is set.
        """

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], options: ort.RunOptions) -> list[Array]:
        """Returns these outputs of the graph, for any number of rows."""


class Executors(Protocol):
    """The executors of a bundle's segments, by name, opened when they are asked for."""

    def __getitem__(self, name: str) -> Executor:
        """Returns the executor of a segment."""

    def keep(self, names: Collection[str]) -> None:
        """Lets go of all but these."""


class OnnxExecutor:
    """A session of onnxruntime in this process, with IO binding.

    Args:
        session: Over the segment's graph.
        may_loop: Whether the graph may have a loop.
    """

    __slots__ = ("may_loop", "session")

    def __init__(self, session: ort.InferenceSession, *, may_loop: bool) -> None:
        self.session = session
        self.may_loop = may_loop

    def bind(self, inputs: Mapping[str, Cell], outputs: Mapping[str, Cell]) -> Bound:
        """See `Executor`. Tensors that change their shape are bound afresh each time."""
        binding = self.session.io_binding()
        for name, cell in inputs.items():
            if cell.fixed:
                binding.bind_ortvalue_input(name, cell.value)
        for name, cell in outputs.items():
            if cell.fixed:
                binding.bind_ortvalue_output(name, cell.value)
            else:
                binding.bind_output(name)
        loose_in = [(name, cell) for name, cell in inputs.items() if not cell.fixed]
        loose_out = [(name, cell) for name, cell in outputs.items() if not cell.fixed]
        if loose_in or loose_out:
            return Bound(_run_loose(self.session, list(outputs), loose_in, loose_out), binding, binding)
        return Bound(*fast_run(self.session, binding), binding)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], options: ort.RunOptions) -> list[Array]:
        """See `Executor`."""
        found: list[Array] = self.session.run(list(outputs), dict(feeds), options)
        return found


def fast_run(session: ort.InferenceSession, binding: ort.IOBinding) -> tuple[Callable[[Any, Any], None], Any]:
    """Returns what runs a session at the least cost per call, and what to pass it as the binding.

    The public method looks for WebGPU graphs on every call, about as long as a small operator takes; the inner object
    that it hands to is used where this onnxruntime has it.
    """
    inner = getattr(getattr(session, "_sess", None), "run_with_iobinding", None)
    argument = getattr(binding, "_iobinding", None)
    if inner is None or argument is None:
        return session.run_with_iobinding, binding
    return inner, argument


def _run_loose(
    session: ort.InferenceSession,
    outputs: list[str],
    loose_in: list[tuple[str, Cell]],
    loose_out: list[tuple[str, Cell]],
) -> Callable[[Any, Any], None]:
    def rebind(binding: ort.IOBinding, options: ort.RunOptions) -> None:
        for name, cell in loose_in:
            binding.bind_ortvalue_input(name, cell.value)
        for name, _ in loose_out:
            binding.bind_output(name)
        session.run_with_iobinding(binding, options)
        if loose_out:
            values = dict(zip(outputs, binding.get_outputs(), strict=True))
            for name, cell in loose_out:
                cell.set(values[name])

    return rebind
