"""What `serve` prints: lines for people with a QR code, or an object a line for programs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import click

from eetoolkit.cli import terminal
from eetoolkit.serve.app import Event, Refused
from eetoolkit.serve.profiles import Saved
from eetoolkit_runtime.files.paths import shown

if TYPE_CHECKING:
    from eetoolkit.serve.certificate import Certificate

Mode = Literal["https", "http", "localhost"]
_WHAT = {
    "https": "Phones in your network may open it, by https.",
    "http": "Phones in your network may open it. By http a browser has one thread, no camera stream and no WebCrypto.",
    "localhost": "This computer alone may open it; --lan lets phones in your network.",
}
_BLOCKS = " ▀▄█"


@dataclass(frozen=True)
class Opened:
    """Where a page is served, the likeliest address first."""

    addresses: tuple[str, ...]
    mode: Mode
    profiles: Path
    certificate: Certificate | None


class Show(Protocol):
    """Prints what a user or a program should know."""

    def start(self, opened: Opened) -> None:
        """Says where the page is, and what to expect."""

    def event(self, event: Event) -> None:
        """Says what a device has done."""

    def end(self) -> None:
        """Says that it is over."""


class JsonLines:
    """One object on one line for each thing that happens, the address first."""

    def start(self, opened: Opened) -> None:
        """See `Show`."""
        made = opened.certificate
        told = {
            "address": opened.addresses[0],
            "addresses": opened.addresses,
            "mode": opened.mode,
            "profiles": str(opened.profiles),
            "certificate": None if made is None else str(made.path),
            "fingerprint": None if made is None else made.fingerprint,
        }
        terminal.print_json(told, indent=-1)

    def event(self, event: Event) -> None:
        """See `Show`."""
        with _unheard():
            terminal.print_json({"event": type(event).__name__.lower(), **asdict(event)}, indent=-1)

    def end(self) -> None:
        """See `Show`."""
        with _unheard():
            terminal.print_json({"event": "stopped"}, indent=-1)


@dataclass(frozen=True)
class TextLines:
    """Lines for people."""

    qr: bool

    def start(self, opened: Opened) -> None:
        """See `Show`."""
        first, *others = opened.addresses
        terminal.say(first, *(f"also {other}" for other in others))
        if self.qr and opened.mode != "localhost":
            terminal.write(_qr_code(first))
        terminal.say(_WHAT[opened.mode])
        if (made := opened.certificate) is not None:
            if made.is_new:
                terminal.say("The browser warns once: this computer made the certificate itself.")
            else:
                terminal.say("A browser that has not been here warns: this computer made the certificate itself.")
            terminal.say(f"Compare its SHA-256 before you go on: {made.fingerprint}")
        terminal.say(f"Profiles go to {shown(opened.profiles)}. Ctrl-C ends it.")

    def event(self, event: Event) -> None:
        """See `Show`."""
        with _unheard():
            if isinstance(event, Saved):
                terminal.say(f"{event.path} saved, of {event.bundle}; next: {event.next}")
            elif isinstance(event, Refused):
                terminal.say(f"refused: a device asked for {event.host!r}; --lan --host NAME allows another name")
            else:
                terminal.say(f"{event.address} opened the page")

    def end(self) -> None:
        """See `Show`."""
        with _unheard():
            terminal.say("stopped")


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """Goes on though nobody reads stdout any more: a device that sends a profile has its answer."""
    with contextlib.suppress(BrokenPipeError, terminal.Failure):
        yield


def _qr_code(text: str) -> list[str]:
    """Returns a QR code as lines for this terminal; none where there is no terminal, or it is too narrow."""
    import segno

    width = terminal.columns()
    rows = [list(row) for row in segno.make_qr(text, error="l").matrix_iter(border=2)]
    if width is None or len(rows[0]) > width or terminal.legible(_BLOCKS) != _BLOCKS:
        return []
    rows += [[0] * len(rows[0])] * (len(rows) % 2)
    # Without colours the light squares are drawn, as most terminals are dark.
    plain = "NO_COLOR" in os.environ or not sys.stdout.isatty()
    lines = [
        "".join(_BLOCKS[(bool(top) != plain) + 2 * (bool(bottom) != plain)] for top, bottom in zip(*pair, strict=True))
        for pair in zip(rows[::2], rows[1::2], strict=True)
    ]
    return lines if plain else [click.style(line, fg="black", bg="bright_white") for line in lines]
