"""Folders on a device: what is kept for the next time, and what is there while a verb runs."""

from __future__ import annotations

import contextlib
import secrets
import shlex
from collections.abc import Iterator

from eetoolkit.remote.transport import Transport, failed
from eetoolkit_runtime.errors import DeviceError


@contextlib.contextmanager
def kept_folder(device: Transport, base: str, *, clean: bool) -> Iterator[str]:
    """Gives the folder of what is kept on a device, `base` as its shell writes it; `clean`: removes it in the end."""
    made = device.run(f"mkdir -p {base} && cd {base} && exec pwd")
    if made.code != 0:
        raise failed(device.name, "making a folder", made)
    found = made.stdout.decode(errors="surrogateescape").strip()
    try:
        yield found
    finally:
        if clean:
            _remove(device, found)


@contextlib.contextmanager
def new_folder(device: Transport, base: str) -> Iterator[str]:
    """Gives a new folder on a device, which is removed in the end, with those that lost connections left a day ago.

    What is `keep`t of it stays.
    """
    jobs = shlex.quote(f"{base}/jobs")
    folder = f"{base}/jobs/{secrets.token_hex(8)}"
    old = f"find {jobs} -mindepth 1 -maxdepth 1 -mtime +0 -exec rm -rf {{}} +"
    made = device.run(f"mkdir -p {shlex.quote(folder)} && exec {old}")
    if made.code != 0:
        raise failed(device.name, "making a folder", made)
    try:
        yield folder
    finally:
        _remove(device, folder)


def keep(device: Transport, new: str, kept: str, what: str) -> None:
    """Moves a new folder, which is whole, to where it is kept; another verb may have made that meanwhile, and use it.

    Args:
        device: Where.
        new: A folder of `new_folder`.
        kept: Where it is found the next time.
        what: Names this in errors.

    Raises:
        DeviceError: It cannot be moved.
    """
    parent, target = shlex.quote(kept.rpartition("/")[0]), shlex.quote(kept)
    moved = device.run(f"mkdir -p {parent}; test -e {target} || exec mv {shlex.quote(new)} {target}")
    if moved.code != 0:
        raise failed(device.name, what, moved)


def _remove(device: Transport, folder: str) -> None:
    with contextlib.suppress(DeviceError):  # it cannot be reached any more, which something else has said
        device.run(f"exec rm -rf {shlex.quote(folder)}")
