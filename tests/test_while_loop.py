"""Every way to write torch.cond and while_loop that torch exports gives what eager gives; every other is named."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from invariants import broken_invariants
from torch import Tensor, cond, nn, while_loop
from torch._higher_order_ops.map import map as torch_map
from torch._higher_order_ops.scan import scan

import eetoolkit as ee
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.capturing.torch_source import TorchSource

TOLERANCE = 1e-5


class Step(nn.Module):
    """The body of a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return i + 1, self.layer(x).tanh()


class GoOn(nn.Module):
    """The condition of a loop."""

    def forward(self, i: Tensor, x: Tensor) -> Tensor:
        return i < 3


Forward = Callable[["Parts", Tensor], Any]


class Parts(nn.Module):
    """What the spellings are written with; x is (batch, 4)."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.first, self.second, self.cell = nn.Linear(4, 4), nn.Linear(4, 4), nn.GRUCell(4, 4)
        self.recurrent = nn.LSTM(1, 4, batch_first=True)
        self.step, self.go_on = Step(), GoOn()
        self.start = nn.Parameter(torch.randn(1, 4))
        self.register_buffer("offset", torch.arange(4.0) - 1)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)

    def run(self, x: Tensor) -> Tensor:
        """A branch that is a method."""
        return self.first(x).tanh()

    def skip(self, x: Tensor) -> Tensor:
        """Another."""
        return self.second(x).relu()

    def before_three(self, i: Tensor, x: Tensor) -> Tensor:
        """A condition that is a method."""
        return i < 3

    def once(self, i: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """A body that is a method."""
        return i + 1, self.run(x)


EXPORTED: dict[str, Forward] = {}
REFUSED: dict[str, tuple[Forward, str]] = {}


def exported(forward: Forward) -> Forward:
    """Notes a spelling that exports."""
    EXPORTED[forward.__name__] = forward
    return forward


def refused(message: str) -> Callable[[Forward], Forward]:
    """Notes a spelling that is refused, and what the error says."""

    def note(forward: Forward) -> Forward:
        REFUSED[forward.__name__] = (forward, message)
        return forward

    return note


def zero(x: Tensor) -> Tensor:
    """A counter."""
    return x.new_zeros((), dtype=torch.int64)


# torch.cond that exports.


@exported
def branches_that_are_methods(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, net.run, net.skip, (x,))


@exported
def branches_that_are_modules(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, net.first, net.second, (x,))


@exported
def branches_that_capture_tensors_parameters_and_numbers(net: Parts, x: Tensor) -> Tensor:
    y, scale = x * 2, 3.0
    return cond(x.sum() > 0, lambda t: net.first(t) + y * scale, lambda t: t * net.offset, (x,))


@exported
def branches_without_operands(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda: net.first(x), lambda: x * net.offset)


@exported
def branches_that_are_partials(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, functools.partial(lambda scale, t: net.run(t) * scale, 2.0), net.skip, [x])


@exported
def an_empty_branch(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, net.run, lambda t: t.clone(), (x,))


@exported
def two_operands_and_results(net: Parts, x: Tensor) -> Tensor:
    a, b = cond(
        x.sum() > 0, lambda t, u: (net.first(t), u + 1), lambda t, u: (t.clone(), u * 2), (x, x.sum(1))
    )  # fmt: skip
    return a + b[:, None]


@exported
def operands_and_results_that_are_dicts(net: Parts, x: Tensor) -> Tensor:
    found = cond(
        x.sum() > 0,
        lambda given: {"a": net.first(given["u"]), "b": given["v"].sum(1)},
        lambda given: {"a": given["u"] - given["v"], "b": given["v"].sum(1) * 2},
        ({"u": x, "v": x * 2},),
    )
    return found["a"] + found["b"][:, None]


@exported
def results_that_are_integers_and_booleans(net: Parts, x: Tensor) -> Tensor:
    label, mask = cond(x.sum() > 0, lambda t: (t.argmax(1), t > 0), lambda t: (t.argmin(1), t < 1), (x,))
    return x * mask + label[:, None]


@exported
def results_that_are_constants(net: Parts, x: Tensor) -> Tensor:
    a = cond(x.sum() > 0, lambda t: t.new_zeros(()), lambda t: t.new_full((), 2.0), (x,))
    b = cond(x.sum() > 0, lambda t: net.offset.clone(), lambda t: net.first.bias.clone(), (x,))
    return x + a + b


@exported
def a_branch_that_makes_constants(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t + torch.zeros(4) + torch.full((), 2.0) + torch.arange(4), net.skip, (x,))


@exported
def a_branch_that_reshapes(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t.reshape(-1, 2, 2).sum(2), lambda t: t[:, :2].clone(), (x,))


@exported
def a_branch_that_changes_its_own_tensor_in_place(net: Parts, x: Tensor) -> Tensor:
    def add(t: Tensor) -> Tensor:
        t = t.clone()
        t += 1
        return t

    return cond(x.sum() > 0, add, net.skip, (x,))


@exported
def a_predicate_of_shape_1(net: Parts, x: Tensor) -> Tensor:
    return cond(x[:1, 0] > 0, net.run, net.skip, (x,))


@exported
def a_predicate_that_is_a_number(net: Parts, x: Tensor) -> Tensor:
    return cond((x.sum() > 0).to(torch.float32), net.run, net.skip, (x,))


@exported
def a_predicate_over_the_number_of_rows(net: Parts, x: Tensor) -> Tensor:
    return cond(x.shape[0] > 2, net.run, net.skip, (x,))


@exported
def branches_of_different_sizes(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t[:1].clone(), lambda t: t.clone(), (x,))


@exported
def elif_chain(net: Parts, x: Tensor) -> Tensor:
    total = x.sum()
    return cond(
        total > 2,
        net.run,
        lambda t: cond(total > 0, net.skip, lambda u: cond(total > -2, lambda v: v * 2, net.first, (u,)), (t,)),
        (x,),
    )


@exported
def three_levels_of_branches(net: Parts, x: Tensor) -> Tensor:
    def third(t: Tensor) -> Tensor:
        return cond(t.sum() > 1, net.run, lambda u: u.clone(), (t,))

    def second(t: Tensor) -> Tensor:
        return cond(t.sum() > 2, third, net.skip, (t,))

    return cond(x.sum() > 0, second, lambda t: t * 2, (x,))


@exported
def a_chain_of_branches(net: Parts, x: Tensor) -> Tensor:
    for k in range(3):
        x = cond(x.sum() > k, net.run, lambda t: t.clone(), (x,))
    return x


# while_loop that exports.


@exported
def functions_that_are_methods(net: Parts, x: Tensor) -> Tensor:
    return while_loop(net.before_three, net.once, (zero(x), x))[1]


@exported
def functions_that_are_modules(net: Parts, x: Tensor) -> Tensor:
    return while_loop(net.go_on, net.step, (zero(x), x))[1]


@exported
def the_documentations_example(net: Parts, x: Tensor) -> Tensor:
    """The spelling of pytorch issue 192040."""
    return while_loop(lambda i, t: i.sum() > 0, lambda i, t: (i - 1, t * 2), (torch.tensor([3]), x))[1]


@exported
def counters_made_in_every_way(net: Parts, x: Tensor) -> Tensor:
    for counter in (
        torch.tensor(0),
        torch.zeros((), dtype=torch.int64),
        torch.zeros((), dtype=torch.int32),
        torch.zeros(()),
        x.new_zeros(()),
    ):
        x = while_loop(lambda i, t: i < 2, lambda i, t: (i + 1, net.run(t)), (counter, x))[1]
    return x


@exported
def a_counter_that_falls(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i > 0, lambda i, t: (i - 1, net.run(t)), (torch.tensor(3), x))[1]


@exported
def a_bound_and_a_condition(net: Parts, x: Tensor) -> Tensor:
    return while_loop(
        lambda i, t: (i < 5) & (t.abs().sum() > 0.5), lambda i, t: (i + 1, net.run(t) * 0.3), (zero(x), x)
    )[1]


@exported
def a_condition_and_a_bound_by_logical_and(net: Parts, x: Tensor) -> Tensor:
    return while_loop(
        lambda i, t: torch.logical_and(t.abs().sum() > 0.5, i < 5), lambda i, t: (i + 1, net.run(t) * 0.3), (zero(x), x)
    )[1]


@exported
def a_condition_that_is_negated(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: ~(i >= 3), net.once, (zero(x), x))[1]


@exported
def no_counter(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda t: t.abs().sum() > 0.1, lambda t: (t * 0.3,), (x,))[0]


@exported
def one_state_that_is_no_tuple(net: Parts, x: Tensor) -> Any:
    return while_loop(lambda t: t.abs().sum() > 0.1, lambda t: t * 0.3, (x,))[0]


@exported
def a_state_that_is_the_condition(net: Parts, x: Tensor) -> Tensor:
    return while_loop(
        lambda go, t: go.clone(), lambda go, t: (t.abs().sum() > 0.5, t * 0.5), (x.sum() > -1, x)
    )[1]  # fmt: skip


@exported
def rows_that_halt_one_by_one(net: Parts, x: Tensor) -> Tensor:
    def go_on(i: Tensor, halted: Tensor, t: Tensor) -> Tensor:
        return (halted < 1).any() & (i < 6)

    def step(i: Tensor, halted: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chance = torch.sigmoid(net.first(t).sum(1))
        running = halted < 1
        return i + 1, halted + torch.where(running, chance, 0.0), torch.where(running[:, None], net.run(t), t)

    return while_loop(go_on, step, (zero(x), x.new_zeros(x.shape[0]), x))[2]


@exported
def states_that_change_places(net: Parts, x: Tensor) -> Tensor:
    _, a, b = while_loop(
        lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b.clone(), a.clone()), (zero(x), x, x + 1)
    )  # fmt: skip
    return a - 2 * b


@exported
def states_in_a_dict_and_a_tuple(net: Parts, x: Tensor) -> Tensor:
    _, found, (c,) = while_loop(
        lambda i, d, e: i < 3,
        lambda i, d, e: (i + 1, {"a": net.first(d["a"]), "b": d["b"] + 1}, (e[0] * 2,)),
        (zero(x), {"a": x, "b": x.sum(1)}, (x * 3,)),
    )
    return found["a"] + found["b"][:, None] + c


@exported
def a_captured_tensor(net: Parts, x: Tensor) -> Tensor:
    y = x * 2
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, net.run(t) + y), (zero(x), x))[1]


@exported
def the_initial_state_captured_as_well(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, net.cell(x, t)), (zero(x), x.clone()))[1]


@exported
def a_bound_from_the_data(net: Parts, x: Tensor) -> Tensor:
    bound = (x.sum() > 0).to(torch.int64) + 2
    x = while_loop(lambda i, t: i < bound, net.once, (zero(x), x))[1]
    return while_loop(
        lambda i, n, t: i < n, lambda i, n, t: (i + 1, n.clone(), net.run(t)), (zero(x), bound, x)
    )[2]  # fmt: skip


@exported
def weights_chosen_by_the_counter(net: Parts, x: Tensor) -> Tensor:
    weights = torch.stack([net.first.weight, net.second.weight])
    return while_loop(
        lambda i, t: i < 2,
        lambda i, t: (i + 1, (t @ weights.index_select(0, i.reshape(1))[0]).tanh()),
        (zero(x), x),
    )[1]


@exported
def columns_chosen_by_the_counter(net: Parts, x: Tensor) -> Tensor:
    return while_loop(
        lambda i, t: i < 4,
        lambda i, t: (i + 1, t + x.index_select(1, i.reshape(1)) + x.gather(1, i.expand(x.shape[0], 1))),
        (zero(x), x * 0),
    )[1]


@exported
def results_gathered_in_a_buffer(net: Parts, x: Tensor) -> Tensor:
    def step(i: Tensor, found: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return i + 1, found.index_copy(1, i.reshape(1), t.sum(1, keepdim=True)), net.run(t)

    return while_loop(lambda i, found, t: i < 3, step, (zero(x), x.new_zeros(x.shape[0], 3), x))[1]


@exported
def a_state_that_starts_as_a_parameter(net: Parts, x: Tensor) -> Tensor:
    once = while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, net.first(h)), (zero(x), net.start))[1]
    start = net.start.expand(x.shape[0], 4).contiguous()
    return once + while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, net.cell(x, h)), (zero(x), start))[1]


@exported
def a_state_that_nothing_uses(net: Parts, x: Tensor) -> Tensor:
    return while_loop(
        lambda i, t, u: i < 3, lambda i, t, u: (i + 1, net.run(t), u + t.sum()), (zero(x), x, x.new_zeros(()))
    )[1]


@exported
def a_loop_that_may_not_run_at_all(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: (i < 3) & (t.sum() > 0), net.once, (zero(x), x))[1]


@exported
def two_loops(net: Parts, x: Tensor) -> Tensor:
    x = while_loop(lambda i, t: i < 3, net.once, (zero(x), x))[1]
    return while_loop(lambda i, t: i < 2, lambda i, t: (i + 1, net.skip(t)), (zero(x), x))[1]


# Both, one in the other.


@exported
def cond_in_while_loop(net: Parts, x: Tensor) -> Tensor:
    offset = x.sum(1, keepdim=True)

    def step(i: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return i + 1, cond(t.sum() > 0, lambda u: net.run(u) + offset, lambda u: u.clone(), (t,))

    return while_loop(lambda i, t: i < 3, step, (torch.tensor(0), x))[1]


@exported
def while_loop_in_cond(net: Parts, x: Tensor) -> Tensor:
    def loop(t: Tensor) -> Tensor:
        return while_loop(lambda i, t: i < 3, net.once, (zero(t), t))[1]

    return cond(x.sum() > 0, loop, net.skip, (x,))


@exported
def while_loop_in_while_loop(net: Parts, x: Tensor) -> Tensor:
    def inner(i: Tensor, t: Tensor) -> Tensor:
        return while_loop(lambda j, t: j <= i, net.once, (zero(t), t))[1]

    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, inner(i, t)), (zero(x), x))[1]


@exported
def blocks_in_an_order_from_a_tensor(net: Parts, x: Tensor) -> Tensor:
    order = net.offset.to(torch.int64)  # -1 0 1 2

    def step(i: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        block = order.index_select(0, i.reshape(1)).reshape(())
        other = cond(block == 0, net.run, lambda u: cond(block == 1, net.skip, lambda v: v.clone(), (u,)), (t,))
        return i + 1, other

    return while_loop(lambda i, t: i < 4, step, (zero(x), x))[1]


@exported
def cond_in_while_loop_in_cond(net: Parts, x: Tensor) -> Tensor:
    def loop(t: Tensor) -> Tensor:
        return while_loop(
            lambda i, t: i < 3,
            lambda i, t: (i + 1, cond(t.sum() > 0, net.run, lambda u: u.clone(), (t,))),
            (zero(t), t),
        )[1]

    return cond(x.sum() > 0, loop, net.skip, (x,))


@exported
def while_loop_in_cond_in_while_loop(net: Parts, x: Tensor) -> Tensor:
    def loop(t: Tensor) -> Tensor:
        return while_loop(lambda i, t: i < 2, net.once, (zero(t), t))[1]

    return while_loop(
        lambda i, t: i < 2, lambda i, t: (i + 1, cond(t.sum() > 0, loop, net.skip, (t,))), (zero(x), x)
    )[1]  # fmt: skip


@exported
def scan_over_a_sequence(net: Parts, x: Tensor) -> Tensor:
    last, sums = scan(
        lambda carry, row: (net.run(carry) + row, carry.sum(1)), x * 1, torch.stack([x, x + 1, x + 2]), dim=0
    )
    return last + sums.sum(0)[:, None]


# What is refused.

ALIAS = "returns an input, a view of one, or one tensor twice; return t.clone()"
TWICE = "while_loop is given one tensor twice: .* give x.clone() as the initial state"
NUMBER = "makes a tensor of a Python number (torch.tensor, new_tensor); write t.new_zeros(()) or t.new_full((), 2.0)"
STATE = "returns a state of another shape, dtype or memory layout than it was given"
INDEX = "index, slice or size depends on a tensor's values; write w[i] as w.index_select(0, i.reshape(1))[0]"


@refused(ALIAS)
def a_branch_that_returns_its_input(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, net.run, lambda t: t, (x,))


@refused(ALIAS)
def a_branch_that_returns_a_view(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t.reshape(-1, 2, 2), lambda t: t.reshape(-1, 2, 2) + 1, (x,))


@refused(ALIAS)
def a_branch_that_returns_one_tensor_twice(net: Parts, x: Tensor) -> Tensor:
    def twice(t: Tensor) -> tuple[Tensor, Tensor]:
        u = net.run(t)
        return u, u

    a, b = cond(x.sum() > 0, twice, lambda t: (t + 1, t + 2), (x,))
    return a + b


@refused(ALIAS)
def states_that_change_places_without_clone(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b, a), (zero(x), x, x + 1))[1]


@refused(ALIAS)
def a_condition_that_is_its_state(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda go, t: go, lambda go, t: (t.abs().sum() > 0.5, t * 0.5), (x.sum() > -9, x))[1]


@refused("changes an input in place; clone it first")
def a_branch_that_changes_its_input_in_place(net: Parts, x: Tensor) -> Tensor:
    def add(t: Tensor) -> Tensor:
        t += 1
        return t.clone()

    return cond(x.sum() > 0, add, net.skip, (x * 1,))


@refused(TWICE)
def two_states_that_start_as_one_tensor(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, net.run(a), net.skip(b)), (zero(x), x, x))[1]


@refused(TWICE)
def the_initial_state_captured_without_clone(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, net.cell(x, t)), (zero(x), x))[1]


@refused(NUMBER)
def torch_tensor_in_a_branch(net: Parts, x: Tensor) -> Tensor:
    return x + cond(x.sum() > 0, lambda t: torch.tensor(0.0), lambda t: torch.tensor(1.0), (x,))


@refused(NUMBER)
def new_tensor_in_a_branch(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t + t.new_tensor(2.0), net.skip, (x,))


@refused(NUMBER)
def torch_tensor_in_a_body(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + torch.tensor(1), net.run(t)), (zero(x), x))[1]


@refused(NUMBER)
def torch_tensor_in_a_condition(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < torch.tensor(3), net.once, (zero(x), x))[1]


@refused("an initial state of while_loop is a Python number; give x.new_zeros((), dtype=torch.int64)")
def a_counter_that_is_a_python_number(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, net.once, (0, x))[1]


@refused(STATE)
def a_state_that_grows(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1, torch.cat([t, t[:, :1]], 1)), (zero(x), x))[1]


@refused(STATE)
def a_state_that_changes_its_dtype(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, lambda i, t: (i + 1.0, net.run(t)), (zero(x), x))[1]


@refused(STATE)
def an_initial_state_that_is_expanded(net: Parts, x: Tensor) -> Tensor:
    start = net.start.expand(x.shape[0], 4)
    return while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, net.cell(x, h)), (zero(x), start))[1]


@refused(INDEX)
def weights_indexed_by_the_counter(net: Parts, x: Tensor) -> Tensor:
    weights = torch.stack([net.first.weight, net.second.weight])
    return while_loop(lambda i, t: i < 2, lambda i, t: (i + 1, (t @ weights[i]).tanh()), (zero(x), x))[1]


@refused(INDEX)
def columns_sliced_by_the_counter(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 4, lambda i, t: (i + 1, t + x[:, i : i + 1]), (zero(x), x * 0))[1]


@refused("a Python `if`, loop or size depends on a tensor's values; write it with torch.cond")
def a_python_if_in_a_branch(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t * 2 if t.sum() > 1 else t * 3, net.skip, (x,))


@refused("a Python `if`, loop or size depends on a tensor's values; write it with torch.cond")
def a_python_while(net: Parts, x: Tensor) -> Tensor:
    while x.abs().sum() > 1:
        x = x / 2
    return x


@refused("the predicate of torch.cond has more than one element; it decides once for all rows")
def a_predicate_per_row(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum(1) > 0, net.run, net.skip, (x,))


@refused("the condition of while_loop is not one boolean; return a tensor of shape ()")
def a_condition_of_shape_1(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: i < 3, net.once, (torch.zeros(1, dtype=torch.int64), x))[1]


@refused("the condition of while_loop is always true")
def an_endless_loop(net: Parts, x: Tensor) -> Tensor:
    return while_loop(lambda i, t: True, net.once, (zero(x), x))[1]


@refused("the branches of torch.cond return a different dtype: torch.int64 and torch.float32")
def branches_of_different_dtypes(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t.argmax(1), lambda t: t.sum(1), (x,))


@refused("the branches of torch.cond return a different dim: 1 and 2")
def branches_of_different_ranks(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: t.sum(1), lambda t: t.clone(), (x,))


@refused("the branches of torch.cond return different structures")
def branches_of_different_structures(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: (t + 1, t + 2), lambda t: (t + 1,), (x,))[0]


@refused("nn.LSTM, nn.GRU or nn.RNN stands in a branch of torch.cond or the body of while_loop; write nn.LSTMCell")
def a_recurrent_layer_in_a_branch(net: Parts, x: Tensor) -> Tensor:
    return cond(x.sum() > 0, lambda t: net.recurrent(t[:, :, None])[0][:, -1], net.skip, (x,))


@refused("no ONNX translation of map; write a while_loop")
def map_over_a_sequence(net: Parts, x: Tensor) -> Tensor:
    return torch_map(net.run, torch.stack([x, x + 1])).sum(0)


def network(forward: Forward) -> Parts:
    """Returns the spelling with seeded weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Parts(forward).eval()


EXAMPLE = np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)


@pytest.mark.parametrize("name", EXPORTED)
def test_a_spelling_gives_what_eager_gives(name: str) -> None:
    source = TorchSource(network(EXPORTED[name]), EXAMPLE)
    captured = capture(source, choose_exits(source, None))
    assert broken_invariants(captured.graph) == []
    proto = ir.to_proto(ir.Model(captured.graph, ir_version=10)).SerializeToString()
    session = ort.InferenceSession(proto, providers=["CPUExecutionProvider"])
    results = []
    for rows in (1, 2, 5):
        drawn = np.random.default_rng(rows).normal(size=(4, rows, 4)).astype(np.float32)
        for x in (*drawn, *-drawn):
            (found,) = session.run(None, {"x": x})
            (expected,) = source.run({"x": x}).values()
            np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
            results.append(found.ravel())
    assert len({result.tobytes() for result in results}) > len(results) / 2


@pytest.mark.parametrize("name", REFUSED)
def test_a_spelling_that_does_not_export_is_named_in_one_line(name: str) -> None:
    forward, message = REFUSED[name]
    with pytest.raises(ee.ExportError) as caught:
        source = TorchSource(network(forward), EXAMPLE)
        capture(source, choose_exits(source, None))
    text = str(caught.value)
    assert all(part in text for part in message.split(".*"))
    assert "\n" not in text
    assert len(text) <= 500
