"""Which segments a runner opens when, and which of them stay open."""

from __future__ import annotations

from typing import Literal

from eetoolkit_runtime.errors import BundleError, RunError
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.sessions import Sessions

Load = Literal["lazy", "background", "eager"]


def open_rest(sessions: Sessions) -> None:
    """Opens all sessions, on a thread that nobody waits for."""
    try:
        sessions.open_all()
    except (BundleError, RunError):
        return  # the run that reaches this segment opens it again and raises to its caller


def kept_open(plan: Manifest, keep: int | None, load: Load) -> frozenset[str] | None:
    """Returns the segments that stay open after a call; None: all.

    Raises:
        RunError: A number below 0, or one that undoes what `load` does.
    """
    if keep is None:
        return None
    if keep < 0:
        raise RunError(f"keep is {keep!r}, expected a number of segments, or None for all")
    if load != "lazy":
        raise RunError(f"keep={keep} closes what load={load!r} opens; use load='lazy'")
    return frozenset([name for name, segment in plan.segments.items() if segment.model is not None][:keep])
