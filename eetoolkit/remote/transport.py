"""What reaches a device: commands with streamed output, files there and back."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tarfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from eetoolkit_runtime.errors import DeviceError, first_line

Line = Callable[[str], object]
Tell = Callable[[str, int, int], object]
Files = Mapping[str, Path | bytes]
"""Files, or folders, by the name that they have on the device."""

_LAST_LINES = 50
_GUARD = (
    "exec 3<&0; ( {command} ) 3<&- </dev/null & job=$!; "
    "( cat <&3 >/dev/null; kill $job ) >/dev/null 2>&1 & watch=$!; "
    "wait $job; code=$?; kill $watch 2>/dev/null; exit $code"
)
"""Runs a command for as long as stdin is open: it is killed where the connection is lost or the caller gives up."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended; `stderr` are its last lines."""

    code: int
    stdout: bytes
    stderr: tuple[str, ...]


class Transport(Protocol):
    """A way to a device.

    Attributes:
        name: What the user calls the device.
    """

    name: str

    def run(self, command: str, *, out: Line | None = None, err: Line | None = None) -> Finished:
        """Runs a command of the device's `sh`, which is ended there where the caller does not wait for its end.

        Args:
            command: A simple command that begins with `exec`, whatever stands before it.
            out: Is told each line of stdout, which is then not kept.
            err: Is told each line of stderr.

        Raises:
            DeviceError: The device cannot be reached any more.
        """

    def put(self, files: Files, folder: str, tell: Line | None = None) -> None:
        """Writes files into a folder, which is made.

        Raises:
            DeviceError: They cannot be written.
        """

    def get(self, path: str) -> bytes:
        """Returns what a file holds.

        Raises:
            DeviceError: It cannot be read.
        """

    def close(self) -> None:
        """Ends the connection."""


def guarded(command: str) -> str:
    """Returns what runs a command until it ends or stdin does."""
    return _GUARD.format(command=command)


def stream(
    command: Sequence[str],
    *,
    send: Callable[[IO[bytes]], object] | None = None,
    out: Line | None = None,
    err: Line | None = None,
) -> Finished:
    """Runs a command of this machine and returns how it ended.

    Args:
        command: The program and its arguments.
        send: Writes its stdin, which else stays open until it has ended.
        out: Is told each line of stdout, which is then not kept.
        err: Is told each line of stderr.

    Raises:
        DeviceError: There is no such program, or `send` cannot read what it is to write.
    """
    try:
        process = subprocess.Popen(  # noqa: S603 - no shell is between
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        raise DeviceError(f"cannot start {command[0]}: {error.strerror}; is it installed here?") from error
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101 - by PIPE
    last: deque[str] = deque(maxlen=_LAST_LINES)
    threads = [threading.Thread(target=_read, args=(process.stderr, last, err), daemon=True)]
    unsent: list[Exception] = []
    if send is not None:
        threads.append(threading.Thread(target=_send, args=(process.stdin, send, unsent), daemon=True))
    kept = io.BytesIO()
    try:
        for thread in threads:
            thread.start()
        for line in process.stdout:
            if out is None:
                kept.write(line)
            else:
                out(_text(line))
        code = process.wait()
        for thread in threads:
            thread.join()
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()  # which ends the command on the device
        if process.poll() is None:
            process.terminate()
            process.wait()
        process.stdout.close()
    if unsent:
        raise DeviceError(f"cannot send: {first_line(unsent[0])}") from unsent[0]
    return Finished(code, kept.getvalue(), tuple(last))


def write_tar(files: Files, target: IO[bytes]) -> None:
    """Writes files as a tar archive without owners, and what links lead to in their place."""
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT, dereference=True) as archive:
        for name, source in files.items():
            if isinstance(source, bytes):
                entry = tarfile.TarInfo(name)
                entry.size = len(source)
                archive.addfile(entry, io.BytesIO(source))
            else:
                archive.add(source, name, filter=_nobodys)


def size_of(files: Files) -> int:
    """Returns how many bytes files and folders are."""
    return sum(len(source) if isinstance(source, bytes) else sum(_sizes(source)) for source in files.values())


def failed(device: str, what: str, finished: Finished) -> DeviceError:
    """Returns what is raised for a command that failed on a device, by what it said last."""
    said = " ".join(finished.stderr)
    if "No space left on device" in said or "Disk quota exceeded" in said:
        return DeviceError(f"{device}: {what}: its disk is full; make room there, or pass --clean once")
    last = next((line for line in reversed(finished.stderr) if line.strip()), f"exit status {finished.code}")
    return DeviceError(f"{device}: {what}: {first_line(RuntimeError(last))}")


def _sizes(path: Path) -> Iterator[int]:
    for each in path.rglob("*") if path.is_dir() else (path,):
        if each.is_file():
            yield each.stat().st_size


def _nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    return entry


def _read(pipe: IO[bytes], last: deque[str], err: Line | None) -> None:
    with pipe:
        for line in pipe:
            last.append(_text(line))
            if err is not None:
                err(_text(line))


def _send(pipe: IO[bytes], send: Callable[[IO[bytes]], Any], unsent: list[Exception]) -> None:
    try:
        send(pipe)
    except BrokenPipeError:
        pass  # the other end says why it took no more
    except Exception as error:  # noqa: BLE001 - raised where the thread is waited for
        unsent.append(error)
    with contextlib.suppress(OSError):
        pipe.close()


def _text(line: bytes) -> str:
    return line.decode(errors="replace").rstrip("\r\n")
