"""Small early-exit and dynamic networks, one a file, with their data, their training and their weights.

A module here is a system, with a `SYSTEM` in it, unless it is one of `FRAME`. None is imported, nor torch, before it
is asked for. A wheel has the demo's alone.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from eetoolkit_runtime.errors import EEToolkitError, did_you_mean

if TYPE_CHECKING:
    from eetoolkit.zoo.system import System

FRAME: Final = frozenset({"digits", "residual", "system", "train"})
"""The modules that serve the systems."""

COMPLETE: Final = (Path(__file__).parent / "checkpoints").is_dir()
"""Whether this is the repository's zoo."""


def names() -> tuple[str, ...]:
    """Returns the systems' names, sorted."""
    return tuple(sorted({module.name for module in pkgutil.iter_modules(__path__)} - FRAME))


def find(name: str) -> System:
    """Returns the system of that name.

    Raises:
        EEToolkitError: There is none.
    """
    if name not in names():
        here = f"it has {', '.join(names())}{did_you_mean(name, names())}"
        raise EEToolkitError(
            f"the zoo has no {name!r}; {here if COMPLETE else f'{here}, a clone of the repository all'}"
        )
    system: System = importlib.import_module(f"eetoolkit.zoo.{name}").SYSTEM
    return system
