"""An Android device behind `adb`, and profiles by the native `ee-profile` there, which needs no app."""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from eetoolkit.remote.folders import kept_folder, new_folder
from eetoolkit.remote.job import collect, send_bundle
from eetoolkit.remote.transport import Files, Finished, Line, Transport, failed, guarded, size_of, stream
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import DeviceError

NATIVE = "EETOOLKIT_ANDROID"
"""The environment variable that names the folder with the native programs for arm64 Android."""
PROGRAM, LIBRARY = "ee-profile", "libonnxruntime.so"
_BASE = "/data/local/tmp/eetoolkit-device"  # where a shell of adb may write and run programs
_RESULT = "profile.json"
_OWN = ("adb:", "error: device", "error: no devices", "error: more than one")  # lines of adb, not of what it runs
_KNOWN = {
    "no devices": "no phone is connected; switch on USB debugging there, and look at `adb devices`",
    "unauthorized": "it asks whether it may be debugged by this machine; accept that on its screen",
    "more than one device": "several phones are connected; name one: --adb SERIAL, as `adb devices` lists them",
    "device offline": "it is offline; unplug it and plug it in again",
}


class Adb:
    """See `Transport`.

    Args:
        serial: As `adb devices` lists it; empty: the only one.
    """

    def __init__(self, serial: str = "") -> None:
        self.name = serial or "the phone"
        self._adb = ["adb", *(["-s", serial] if serial else [])]

    def run(self, command: str, *, out: Line | None = None, err: Line | None = None) -> Finished:
        """See `Transport`."""
        return self._checked(stream([*self._adb, "shell", guarded(command)], out=out, err=err))

    def put(self, files: Files, folder: str, tell: Line | None = None) -> None:
        """See `Transport`."""
        if tell is not None:
            tell(f"sending {size_of(files) / 1e6:.1f} MB")
        made = self.run(f"exec mkdir -p {shlex.quote(folder)}")
        if made.code != 0:
            raise failed(self.name, "making a folder", made)
        with tempfile.TemporaryDirectory(prefix="eetoolkit-") as here:
            written = Path(here, "file")
            for name, source in files.items():
                if isinstance(source, bytes):
                    written.write_bytes(source)
                path = written if isinstance(source, bytes) else source.resolve()  # adb may send a link as a link
                finished = self._checked(stream([*self._adb, "push", str(path), f"{folder}/{name}"]))
                if finished.code != 0:
                    raise failed(self.name, "sending files", finished)

    def get(self, path: str) -> bytes:
        """See `Transport`."""
        finished = self._checked(stream([*self._adb, "exec-out", f"cat {shlex.quote(path)}"]))
        if finished.code != 0:
            raise failed(self.name, "reading the result", finished)
        return finished.stdout

    def close(self) -> None:
        """See `Transport`; adb's server stays, as it always does."""

    def _checked(self, finished: Finished) -> Finished:
        """Raises what adb itself failed of."""
        said = "\n".join(line for line in finished.stderr if line.startswith(_OWN))
        if finished.code == 0 or not said:
            return finished
        known = next((fix for text, fix in _KNOWN.items() if text in said), None)
        if known is not None:
            raise DeviceError(f"{self.name}: {known}")
        if "not found" in said and "device" in said:
            raise DeviceError(f"{self.name}: no such phone is connected; look at `adb devices`")
        raise failed(self.name, "adb", finished)


def native_folder(given: str | None) -> Path:
    """Returns the folder with the native programs.

    Raises:
        DeviceError: None is named, or it has not what is needed.
    """
    named = given or os.environ.get(NATIVE)
    if not named:
        raise DeviceError(
            f"--native FOLDER or {NATIVE} must name the folder with {PROGRAM} and {LIBRARY} for arm64 Android"
        )
    missing = [name for name in (PROGRAM, LIBRARY) if not Path(named, name).is_file()]
    if missing:
        raise DeviceError(f"{named} has no {' and no '.join(missing)}; expected those for arm64 Android")
    return Path(named)


def profile_natively(
    device: Transport, bundle: Bundle, native: Path, arguments: Sequence[str], *, clean: bool, tell: Line, err: Line
) -> tuple[int, bytes]:
    """Returns the exit status of `ee-profile` on a device, and the profile's JSON where that is 0.

    Args:
        device: Where; its connection is ended.
        bundle: What is profiled, by its golden samples.
        native: The folder with the program and onnxruntime's library.
        arguments: The program's.
        clean: Whether to remove all that is kept on the device afterwards.
        tell: Is told what goes on before it runs.
        err: Is told each line that it prints on stderr.

    Raises:
        DeviceError: The device cannot be reached or is full.
    """
    with contextlib.closing(device):
        tell(f"connecting to {device.name}")
        with kept_folder(device, _BASE, clean=clean) as base, new_folder(device, base) as folder:
            device.put({name: native / name for name in (PROGRAM, LIBRARY)}, folder, tell)
            place = send_bundle(device, base, bundle, tell)
            tell(f"running on {device.name}")
            command = shlex.join([f"./{PROGRAM}", place, "--output", _RESULT, *arguments])
            here = f"cd {shlex.quote(folder)} && chmod 755 {PROGRAM}"
            finished = device.run(f"{here} && exec env LD_LIBRARY_PATH=. {command}", out=lambda _: None, err=err)
            return finished.code, collect(device, folder, [_RESULT], finished).get(_RESULT, b"")
