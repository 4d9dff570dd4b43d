"""What PyTorch says in screens of text, as one line that a user can act on."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import textwrap
import traceback
from collections.abc import Iterator

import torch

_MAX = 400
_LIBRARY = re.compile(
    r"[/\\](torch|onnxscript|onnx_ir|sympy|eetoolkit_exporters)[/\\]|[/\\]lib[/\\]python[\d.]+[/\\](?!site-)|^<"
)

Place = tuple[str, int, str]
"""A line of the user's: file, number, code."""

_BRANCHING = r"data-dependent expression|Data-dependent branching|data-dependent jump"
_DATA = r"\.numpy\(\) is not supported for tensor subclasses"
READS_DATA = "what `.data` gives cannot be followed; write .detach()"
LEAVES = {
    ast.Return: (
        "a Python `if` on a tensor's values returns early; delete it and return every exit, `return early, late`: the "
        "bundle decides which one answers"
    ),
    ast.Break: (
        "a Python `if` on a tensor's values leaves a loop early; delete it and return what every round gives as an "
        "exit: the bundle decides which one answers"
    ),
}

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
    _BRANCHING: (
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


def reason(error: BaseException, network: torch.nn.Module | None = None) -> str:
    """Shortens an error to the innermost cause, in our words where it is known, and the line of the network's code."""
    said = everything(error)
    innermost = next((part for part in reversed(chain(error)) if str(part).strip()), error)
    line = next((line.strip() for line in str(innermost).splitlines() if line.strip()), type(innermost).__name__)
    text, place = known(error) or line, _place(error, said)
    if place is not None and re.search(_BRANCHING, said):
        text = _leaving(place) or text
    elif network is not None and re.search(_DATA, said) and (read := _data_read(network)) is not None:
        text, place = READS_DATA, read
    where = "" if place is None else f" ({place[0]}:{place[1]}: {place[2]})"
    return text[: max(0, _MAX - len(where))] + where[:_MAX]


def _place(error: BaseException, said: str) -> Place | None:
    """Returns the innermost line of the user's: PyTorch's text shows it, or the traceback."""
    shown = re.findall(r'File "([^"<]+)", line (\d+), in \S+\n\s+(.+)', said)
    own = [(path, int(number), code.strip()) for path, number, code in shown if not _LIBRARY.search(path)]
    if own:
        return own[-1]
    for part in reversed(chain(error)):
        frames = traceback.extract_tb(part.__traceback__)
        ours = [number for number, frame in enumerate(frames) if "eetoolkit_exporters" in frame.filename]
        below = frames[ours[-1] + 1 :] if ours else frames
        for frame in reversed(below):
            if not _LIBRARY.search(frame.filename):
                return frame.filename, frame.lineno or 0, (frame.line or "").strip()
    return None


def _leaving(place: Place) -> str | None:
    """Returns what to write where the `if` at a place ends its function or its loop."""
    try:
        tree = ast.parse("".join(linecache.getlines(place[0])))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and node.lineno <= place[1] <= (node.test.end_lineno or 0):
            for kind, words in LEAVES.items():
                if any(isinstance(inner, kind) for inner in _statements(node)):
                    return words
    return None


def _statements(node: ast.If) -> Iterator[ast.AST]:
    return (inner for part in (*node.body, *node.orelse) for inner in ast.walk(part))


def _data_read(network: torch.nn.Module) -> Place | None:
    """Returns where the code of a network reads `.data`."""
    for kind in dict.fromkeys(type(module) for module in network.modules()):
        try:
            lines, first = inspect.getsourcelines(kind.forward)
            path = inspect.getsourcefile(kind) or ""
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):
            continue
        for node in () if _LIBRARY.search(path) else ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr == "data":
                return path, first + node.lineno - 1, lines[node.lineno - 1].strip()
    return None
