"""The Python on a device that has this eetoolkit: found there, or made in a virtual environment of its own."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence

import msgspec

import eetoolkit as ee
from eetoolkit.remote.folders import keep, new_folder
from eetoolkit.remote.transport import Finished, Line, Transport, failed
from eetoolkit.remote.wheel import device_wheel, requirements
from eetoolkit_runtime.errors import DeviceError

_OLDEST = (3, 11)
_LOOK = """
import json, sys
from importlib.util import find_spec as f
from importlib.metadata import version as v
own = sys.prefix != sys.base_prefix and f("eetoolkit") is not None
print(json.dumps({"python": list(sys.version_info[:2]), "bits": 64 if sys.maxsize > 2**32 else 32,
 "venv": f("venv") is not None and f("ensurepip") is not None, "eetoolkit": v("eetoolkit") if own else None}))
"""
_NO_NETWORK = (
    "Temporary failure in name resolution", "Name or service not known", "Network is unreachable", "ProxyError",
    "Failed to establish a new connection", "NewConnectionError", "Connection timed out", "ConnectTimeoutError",
)  # fmt: skip
_NOT_FOUND = (126, 127)
_DIGITS = 12


class _Python(msgspec.Struct):
    """A Python of a device; `eetoolkit` is the version in it where it is a virtual environment that has one."""

    python: tuple[int, int]
    bits: int
    venv: bool
    eetoolkit: str | None


def prepare(device: Transport, base: str, python: str, extras: Sequence[str], tell: Line) -> str:
    """Returns the interpreter on the device that has this eetoolkit.

    Where `python` is that of a virtual environment with this version of eetoolkit in it, it is taken as it is. Else
    it makes one below `base`, which is used again: libraries are installed once, and eetoolkit itself where it is
    another than last time.

    Args:
        device: Where.
        base: The folder of what is kept there.
        python: The interpreter's name or path on the device.
        extras: Further packages.
        tell: Is told what goes on.

    Raises:
        DeviceError: There is no such Python, it is too old, it cannot make environments, or packages cannot be had.
    """
    found = _look(device, python)
    if found.eetoolkit == ee.__version__:
        return python
    if not found.venv:
        raise DeviceError(
            f"{device.name}: {python} cannot make virtual environments; on Debian and Raspberry Pi OS: "
            "sudo apt install python3-venv"
        )
    wanted = (*requirements(), *extras)
    folder = f"{base}/python-{hashlib.sha256(' '.join((python, *wanted)).encode()).hexdigest()[:_DIGITS]}"
    wheel = device_wheel()
    if device.run(f"exec test -e {shlex.quote(folder)}").code != 0:
        with new_folder(device, base) as arriving:
            tell("making a virtual environment")
            made = device.run(f"exec {shlex.quote(python)} -m venv {shlex.quote(arriving)}")
            if made.code != 0:
                raise failed(device.name, "making a virtual environment", made)
            tell("installing libraries")
            _install(device, arriving, wanted)
            _update(device, arriving, wheel, tell)
            keep(device, arriving, folder, "making a virtual environment")
    _update(device, folder, wheel, tell)
    return f"{folder}/bin/python"


def _update(device: Transport, folder: str, wheel: tuple[str, bytes], tell: Line) -> None:
    """Installs this eetoolkit in an environment that has another or none; `wheel` is its name and what it holds."""
    name, held = wheel
    marker = f"{folder}/has-{hashlib.sha256(held).hexdigest()[:_DIGITS]}"
    if device.run(f"exec test -e {shlex.quote(marker)}").code != 0:
        tell("installing eetoolkit")
        device.put({name: held}, folder)
        device.run(f"exec rm -f {shlex.quote(folder)}/has-*")
        _install(device, folder, ("--no-deps", "--no-index", "--force-reinstall", f"{folder}/{name}"))
        device.run(f"exec touch {shlex.quote(marker)}")


def _look(device: Transport, python: str) -> _Python:
    told = device.run(f"exec {shlex.quote(python)} -c {shlex.quote(_LOOK)}")
    try:
        found = msgspec.json.decode(told.stdout, type=_Python)
    except msgspec.MsgspecError as error:
        if told.code in _NOT_FOUND:
            raise DeviceError(
                f"{device.name}: there is no {python}; install it (sudo apt install python3 python3-venv), or name "
                "another with --python"
            ) from error
        raise failed(device.name, f"{python} does not run", told) from error
    if found.python < _OLDEST:
        got, least = (".".join(map(str, version)) for version in (found.python, _OLDEST))
        raise DeviceError(
            f"{device.name}: {python} is Python {got}, {least} or newer is needed; name another with --python"
        )
    if found.bits != 64:
        raise DeviceError(
            f"{device.name}: its system has 32 bits, for which there is no onnxruntime; install a 64-bit one"
        )
    return found


def _install(device: Transport, folder: str, packages: Sequence[str]) -> None:
    pip = [
        f"{folder}/bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--no-input",
        *packages,
    ]
    finished = device.run(f"exec {shlex.join(pip)}")
    if finished.code != 0:
        raise _not_installed(device, finished)


def _not_installed(device: Transport, finished: Finished) -> DeviceError:
    said = " ".join(finished.stderr)
    if any(text in said for text in _NO_NETWORK):
        return DeviceError(
            f"{device.name}: packages cannot be had, it has no network; connect it once, or name a Python that has "
            "eetoolkit with --python"
        )
    errors = tuple(line for line in finished.stderr if line.startswith("ERROR:"))[:1]
    return failed(device.name, "installing", Finished(finished.code, b"", errors or finished.stderr))
