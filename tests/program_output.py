"""What a platform's program prints."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

LONGEST_S = 1800


def output_of(name: str, command: Iterable[str | Path], environment: Mapping[str, str] | None = None) -> str:
    """Returns what a program printed; ends this one with what it complained of where it printed nothing.

    Args:
        name: The platform's, for people.
        command: The program and its arguments.
        environment: What it needs beside this process's own.
    """
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    if not done.stdout:
        raise SystemExit(f"{name}: ended with {done.returncode}\n{done.stderr}")
    return done.stdout
