"""The logger `eetoolkit`: what is opened and with which settings, and what to know of it, for those who debug."""

from __future__ import annotations

import sys
from typing import Literal

from eetoolkit_runtime.printable import printable

LOGGER = "eetoolkit"


def log(level: Literal["warning", "info", "debug"], message: str, *values: object) -> None:
    """Hands a message to the logger, its values put in for `%s`, if this process has imported `logging` by now.

    Else nobody listens, and the import would take three milliseconds of a device's start-up.
    """
    if "logging" not in sys.modules:
        return
    import logging

    logger = logging.getLogger(LOGGER)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    severity = {"warning": logging.WARNING, "info": logging.INFO, "debug": logging.DEBUG}[level]
    if logger.isEnabledFor(severity):
        logger.log(severity, "%s", printable(message % values), stacklevel=2)
