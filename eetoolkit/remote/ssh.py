"""A device behind the system's own ssh, with its configuration, keys and agent."""

from __future__ import annotations

import shlex
import shutil
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from eetoolkit.remote.transport import Files, Finished, Line, failed, guarded, size_of, stream, write_tar
from eetoolkit_runtime.errors import DeviceError

_LOST = 255  # what ssh ends with for an error of its own
_REFUSED = "it refuses the login; try ssh {target}, and ssh-copy-id {target} for a login by key"
_KNOWN = {
    "REMOTE HOST IDENTIFICATION HAS CHANGED": "its host key has changed; if that is right: ssh-keygen -R {host}",
    "Host key verification failed": "its host key is not known; log in once to accept it: ssh {target}",
    "Permission denied": _REFUSED,
    "Too many authentication failures": _REFUSED,
    "Could not resolve hostname": "there is no such host; expected USER@HOST, one of your ssh_config, or ssh://USER@HOST:PORT",
    "Connection refused": "nothing listens there; is ssh enabled on the device?",
    "timed out": "no answer; is the device on, and in this network?",
    "No route to host": "no answer; is the device on, and in this network?",
}


class Ssh:
    """See `Transport`. One connection, and one login, for all commands.

    Args:
        target: As `ssh` takes it: `pi@host`, a host of ssh_config, or `ssh://pi@host:2222`.

    Raises:
        DeviceError: No such target.
    """

    def __init__(self, target: str) -> None:
        if not target or target.startswith("-") or any(character.isspace() for character in target):
            raise DeviceError(f"{target!r} is no device; expected USER@HOST or ssh://USER@HOST:PORT")
        self.name = target
        self._reached = False
        # A socket's path may have 104 characters, and ssh adds some to it while it is made.
        self._folder = tempfile.mkdtemp(prefix="ee-", dir=None if len(tempfile.gettempdir()) < 40 else "/tmp")  # noqa: S108
        shared = {"ControlMaster": "auto", "ControlPath": f"{self._folder}/s", "ControlPersist": "30"}
        alive = {"ServerAliveInterval": "5", "ServerAliveCountMax": "3", "ConnectTimeout": "15"}
        self._options = [part for key, value in (shared | alive).items() for part in ("-o", f"{key}={value}")]

    def run(self, command: str, *, out: Line | None = None, err: Line | None = None) -> Finished:
        """See `Transport`."""
        return self._checked(stream(self._ssh(guarded(command)), out=out, err=err))

    def put(self, files: Files, folder: str, tell: Line | None = None) -> None:
        """See `Transport`; as one tar archive."""
        if tell is not None:
            tell(f"sending {size_of(files) / 1e6:.1f} MB")
        quoted = shlex.quote(folder)
        unpack = f"mkdir -p {quoted} && tar -xf - -C {quoted}"
        finished = self._checked(stream(self._ssh(unpack), send=lambda pipe: write_tar(files, pipe)))
        if finished.code != 0:
            raise failed(self.name, "sending files", finished)

    def get(self, path: str) -> bytes:
        """See `Transport`."""
        finished = self._checked(stream(self._ssh(f"exec cat {shlex.quote(path)}")))
        if finished.code != 0:
            raise failed(self.name, "reading the result", finished)
        return finished.stdout

    def close(self) -> None:
        """See `Transport`."""
        if (Path(self._folder) / "s").exists():
            stream(["ssh", *self._options, "-O", "exit", self.name])
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ssh(self, script: str) -> list[str]:
        return ["ssh", "-T", *self._options, "--", self.name, f"exec sh -c {shlex.quote(script)}"]

    def _checked(self, finished: Finished) -> Finished:
        """Raises what ssh itself failed of."""
        if finished.code != _LOST:
            self._reached = True
            return finished
        said = "\n".join(finished.stderr)
        if self._reached:
            raise DeviceError(f"{self.name}: the connection was lost; nothing was saved here, run it again")
        known = next((fix for text, fix in _KNOWN.items() if text in said), None)
        if known is not None:
            raise DeviceError(f"{self.name}: {known.format(target=self.name, host=_host(self.name))}")
        raise failed(self.name, "cannot connect", finished)


def _host(target: str) -> str:
    """Returns the host as known_hosts has it."""
    if not target.startswith("ssh://"):
        return target.rpartition("@")[2]
    parts = urlsplit(target)
    return parts.hostname or "" if parts.port in (None, 22) else f"'[{parts.hostname}]:{parts.port}'"
