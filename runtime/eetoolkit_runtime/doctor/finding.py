"""What an examination finds, as a value."""

from __future__ import annotations

from typing import Literal

import msgspec

State = Literal["ok", "warning", "problem"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at.

    Attributes:
        name: What was looked at, in a word or two.
        state: `ok`; `warning`: it works, but worse than it could; `problem`: it does not work.
        what: What was read or measured.
        fix: What helps; None where nothing needs to.
    """

    name: str
    state: State = "ok"
    what: str
    fix: str | None = None
