"""What begins anew in a forked process: it has the memory of its parent, and of its threads the forking one alone."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Renewed(Protocol):
    """Holds threads, or locks that another thread may have had when the process was forked."""

    def renew(self) -> None:
        """Begins anew without what the child does not have."""


_all: weakref.WeakSet[Renewed] = weakref.WeakSet()


def renew_after_fork(thing: Renewed) -> None:
    """Has `renew` called in every process that is forked from this one while `thing` is alive."""
    _all.add(thing)


def keep_for_ever(thing: object) -> None:
    """Never destroys a thing of the parent that would wait for its threads to end, not even when Python ends."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


def _renew() -> None:
    for thing in tuple(_all):
        thing.renew()


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_renew)
