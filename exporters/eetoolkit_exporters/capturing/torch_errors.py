"""What PyTorch says in screens of text, as one line that a user can act on."""

from __future__ import annotations

import re

_MAX = 400

KNOWN = {
    r"No ONNX function found for <OpOverload\(op='([^']+)'": r"no ONNX operator for \1",
    r"No ONNX function found for <torch._higher_order_ops\.(\w+)\.": r"no ONNX translation of \1; write a while_loop",
    r"Encountered aliasing during higher order op tracing": (
        "a branch of torch.cond or the body of while_loop returns an input, a view of one, or one tensor twice; return "
        "t.clone()"
    ),
    r"Encountered input mutation during higher order op tracing": (
        "a branch of torch.cond or the body of while_loop changes an input in place; clone it first"
    ),
    r"_fn might be aliasing the input or the output": (
        "while_loop is given one tensor twice: as two initial states, or as one that its functions capture too; give "
        "x.clone() as the initial state"
    ),
    r"Attempting to use FunctionalTensor on its own": (
        "a branch of torch.cond or a function of while_loop makes a tensor of a Python number (torch.tensor, "
        "new_tensor); write t.new_zeros(()) or t.new_full((), 2.0)"
    ),
    r"Attempted to wrap RNN, GRU, or LSTM": (
        "nn.LSTM, nn.GRU or nn.RNN stands in a branch of torch.cond or the body of while_loop; write nn.LSTMCell "
        "or nn.GRUCell"
    ),
    r"Expected pred to be bool or single-element tensor": (
        "the predicate of torch.cond has more than one element; it decides once for all rows: reduce it (any, all), or "
        "choose rows with torch.where"
    ),
    r"Expected `?cond_fn`? to return a scalar tensor|unsupported cond_fn return type": (
        "the condition of while_loop is not one boolean; return a tensor of shape (), such as i.sum() < 3"
    ),
    r"while_loop: infinite loop detected": "the condition of while_loop is always true",
    r"all carried_inputs must be tensors": (
        "an initial state of while_loop is a Python number; give x.new_zeros((), dtype=torch.int64)"
    ),
    r"Expected body_fn_output and carried_inputs to have same metadata": (
        "the body of while_loop returns a state of another shape, dtype or memory layout than it was given; keep them "
        "(an expanded or transposed initial state: .contiguous())"
    ),
    r"When merging two branches' output in torch.cond,\s+expected same (\w+) but got (\S+) and ([\w.]*\w)": (
        r"the branches of torch.cond return a different \1: \2 and \3"
    ),
    r"torch.cond: differing branch outputs": "the branches of torch.cond return different structures",
    r"extract specialized integer from data-dependent expression|Runtime assertion failed for expression": (
        "a Python index, slice or size depends on a tensor's values; write w[i] as w.index_select(0, i.reshape(1))[0]"
    ),
    r"data-dependent expression|Data-dependent branching|data-dependent jump": (
        "a Python `if`, loop or size depends on a tensor's values; write it with torch.cond, torch.where or "
        "torch.while_loop"
    ),
    r"Got graph break/error:(?s:.*?)Explanation: ([^\n]+)": r"\1",
}
"""What PyTorch says, as a pattern, and what we say; the first that is found counts."""


def chain(error: BaseException) -> list[BaseException]:
    """Returns an error and what it came from, innermost last."""
    found: list[BaseException] = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found


def from_tracing(error: BaseException) -> bool:
    """Returns whether PyTorch's tracer gave the error, which then says much more than what is wrong."""
    return any(type(part).__module__.startswith(("torch._dynamo", "torch.fx")) for part in chain(error))


def known(error: BaseException) -> str | None:
    """Returns what an error says in our words, where we have words for it."""
    said = everything(error)
    for pattern, words in KNOWN.items():
        if match := re.search(pattern, said):
            return match.expand(words)
    return None


def everything(error: BaseException) -> str:
    """Returns all that an error and its causes say."""
    return "\n".join(str(part) for part in chain(error))


def reason(error: BaseException) -> str:
    """Shortens an error to the innermost cause, in our words where it is known, and the line of the network's code."""
    said = everything(error)
    innermost = next((part for part in reversed(chain(error)) if str(part).strip()), error)
    line = next((line.strip() for line in str(innermost).splitlines() if line.strip()), type(innermost).__name__)
    text = known(error) or line
    lines = re.findall(r'File "([^"<]+)", line (\d+), in (\S+)\n\s+(.+)', said)
    own = [line for line in lines if "/torch/" not in line[0] and "eetoolkit_exporters" not in line[0]]
    if own:
        path, number, _, code = own[-1]
        text = f"{text} ({path}:{number}: {code.strip()})"
    return text[:_MAX]
