"""A torch network and its example inputs, named by words on a command line."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from eetoolkit_runtime.errors import ExportError, did_you_mean
from eetoolkit_runtime.plan.types import DType

if TYPE_CHECKING:
    import torch

_WRAPPERS = ("state_dict", "model_state_dict", "model")  # keys under which training scripts keep the weights
_KEYS_SHOWN = 3
_SEED = 0


@dataclass(frozen=True)
class ExampleInput:
    """Name, shape and dtype of an input, as `image:1x1x8x8:float32`; the dtype may be left out."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def parse_input(text: str) -> ExampleInput:
    """Returns what `name:1x3x224x224` or `name:1x16:int64` says.

    Raises:
        ExportError: Another notation or an unknown dtype.
    """
    match = re.fullmatch(r"(.+):(\d+(?:x\d+)*)(?::(\w+))?", text)
    if match is None:
        raise ExportError(
            f"--input {text!r}: expected NAME:SHAPE or NAME:SHAPE:DTYPE, such as image:1x3x224x224:float32"
        )
    name, shape, dtype = match[1], tuple(int(size) for size in match[2].split("x")), match[3] or "float32"
    if dtype not in get_args(DType):
        raise ExportError(f"--input {text!r}: no dtype {dtype!r}; expected one of {', '.join(get_args(DType))}")
    if 0 in shape:
        raise ExportError(f"--input {text!r}: a dimension is 0, an example needs at least 1")
    return ExampleInput(name, shape, dtype)


def draw_examples(inputs: Sequence[ExampleInput]) -> dict[str, npt.NDArray[Any]]:
    """Returns an array for each input: normally distributed floats, the same on every call, and zeros for the others.

    Raises:
        ExportError: Two inputs of one name.
    """
    rng = np.random.default_rng(_SEED)
    arrays: dict[str, npt.NDArray[Any]] = {}
    for spec in inputs:
        if spec.name in arrays:
            raise ExportError(f"--input: two inputs are called {spec.name!r}")
        drawn = rng.standard_normal(spec.shape) if spec.dtype.startswith("float") else np.zeros(spec.shape)
        arrays[spec.name] = drawn.astype(spec.dtype)
    return arrays


def open_model(spec: str, weights: str | None = None) -> torch.nn.Module | str:
    """Returns the network that `package.module:function` makes, with `weights` loaded and then in eval mode.

    What stands behind the name may be a function or class that is called without arguments, or a network itself. The
    current folder is put on `sys.path`. Without weights the network is left as the function returned it. A path that
    ends in `.onnx` is given back.

    Raises:
        ExportError: No such module or name, the function fails or returns something else, weights that do not fit.
    """
    if spec.endswith(".onnx"):
        if weights is not None:
            raise ExportError(f"{spec} has its own weights; leave out --weights {weights}")
        return spec
    import torch

    found = _resolve(spec)
    if not isinstance(found, torch.nn.Module) and callable(found):
        try:
            found = found()
        except Exception as error:  # the user's own code may raise anything
            raise ExportError(f"{spec} fails: {type(error).__name__}: {error}") from error
    if not isinstance(found, torch.nn.Module):
        raise ExportError(
            f"{spec} is {type(found).__name__}, expected a torch.nn.Module or a function that returns one"
        )
    if weights is not None:
        _load_weights(found, spec, Path(weights))
        found.eval()
    return found


def as_arguments(
    model: torch.nn.Module | str | Sequence[str], arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[Any, list[str] | None]:
    """Returns example inputs and input names as `export` takes them.

    Inputs go to the parameters of `forward` of the same names; where one has no such parameter, they go in order, and
    `forward`'s parameters get these names in the bundle.
    """
    if not arrays:
        return None, None
    forward = getattr(model, "forward", None)
    if forward is None or set(arrays) <= set(inspect.signature(forward).parameters):
        return dict(arrays), None
    return tuple(arrays.values()), list(arrays)


def _resolve(spec: str) -> Any:
    name, colon, path = spec.partition(":")
    if not colon or not name or not path:
        raise ExportError(f"--model {spec!r}: expected PACKAGE.MODULE:FUNCTION, such as my_network:load")
    if name.endswith(".py") or "/" in name or "\\" in name:
        dotted = re.sub(r"[/\\]+", ".", name.removesuffix(".py").removeprefix("./"))
        raise ExportError(f"--model {spec!r}: expected a module's name, not a file; try {dotted}:{path}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            where = f"in {here} or on PYTHONPATH{_meant(error.name)}"
            raise ExportError(f"--model {spec!r}: no module {error.name!r} {where}") from error
        raise ExportError(f"--model {spec!r}: importing {name} fails: {error}") from error
    except Exception as error:  # the user's own code may raise anything
        raise ExportError(f"--model {spec!r}: importing {name} fails: {type(error).__name__}: {error}") from error
    for part in path.split("."):
        if not hasattr(found, part):
            meant = did_you_mean(part, (known for known in dir(found) if not known.startswith("_")))
            raise ExportError(f"--model {spec!r}: {getattr(found, '__name__', name)!r} has no {part!r}{meant}")
        found = getattr(found, part)
    return found


def _meant(missing: str) -> str:
    """Returns the hint at the module that was meant: one of its package's, or one that can be imported as it is."""
    package, _, name = missing.rpartition(".")
    places = getattr(sys.modules[package], "__path__", []) if package else None
    return did_you_mean(name, (found.name for found in pkgutil.iter_modules(places)))


def _load_weights(model: torch.nn.Module, spec: str, path: Path) -> None:
    import torch

    given, own = _read_weights(path), model.state_dict()
    shaped = {key: tensor for key, tensor in own.items() if not torch.nn.parameter.is_lazy(tensor)}
    places = {shaped[key].data_ptr() for key in given if key in shaped}
    tied = {key for key, tensor in shaped.items() if tensor.data_ptr() in places}  # a file may hold them once
    missing = [key for key in own if key not in given and key not in tied]
    unexpected = [key for key in given if key not in own]
    misshapen = [
        f"{key} {list(tensor.shape)} (expected {list(shaped[key].shape)})"
        for key, tensor in given.items()
        if key in shaped and tensor.shape != shaped[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
    if faults := [f"{kind}: {_first(keys)}" for kind, keys in kinds if keys]:
        raise ExportError(f"{path} does not fit {spec}: {'; '.join(faults)}")
    try:
        model.load_state_dict(given, strict=False)
    except RuntimeError as error:
        raise ExportError(f"{path} does not fit {spec}: {error}") from error


def _read_weights(path: Path) -> dict[str, torch.Tensor]:
    import torch

    if not path.is_file():
        raise ExportError(f"--weights {path}: no such file")
    if path.suffix == ".safetensors":
        import safetensors
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (safetensors.SafetensorError, OSError) as error:
            raise ExportError(f"{path}: not a readable .safetensors file ({error})") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ExportError(
            f"{path}: holds more than weights, or is damaged; code in it is never run: save model.state_dict() instead"
        ) from error
    except Exception as error:  # a damaged file makes torch's readers raise anything
        reason = str(error).partition(". ")[0]  # torch explains itself at length
        raise ExportError(f"{path}: not a readable file of weights ({reason})") from error
    for key in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
            break
    if not isinstance(found, Mapping) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise ExportError(f"{path}: expected a state_dict, or one under {' or '.join(map(repr, _WRAPPERS))}")
    return {str(key): value for key, value in found.items()}


def _first(keys: Sequence[str]) -> str:
    more = len(keys) - _KEYS_SHOWN
    return ", ".join(keys[:_KEYS_SHOWN]) + (f" and {more} more" if more > 0 else "")
