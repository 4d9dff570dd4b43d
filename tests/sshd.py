"""An ssh server on loopback, Debian's own, unpacked into a cache folder: a device to test with."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "eetoolkit-tests" / "openssh-server"
_PACKAGES = ("openssh-server", "openssh-sftp-server", "libwrap0")
_STARTS_S = 20.0


class UnavailableError(Exception):
    """No such server can be had here, and why."""


@dataclass(frozen=True)
class Device:
    """A server that runs.

    Attributes:
        target: As `ssh` takes it.
        cache: What its sessions have as the user's cache folder.
        folder: With its keys, its `ssh_config` and a `bin` that its sessions look into first.
        process: The server.
    """

    target: str
    cache: Path
    folder: Path
    process: subprocess.Popen[bytes]


def unpacked() -> Path:
    """Returns a folder with the server, which is fetched once.

    Raises:
        UnavailableError: It cannot be had.
    """
    if (CACHE / "usr/sbin/sshd").exists():
        return CACHE
    if shutil.which("dpkg") is None or shutil.which("apt-get") is None or shutil.which("ssh") is None:
        raise UnavailableError("openssh-server is unpacked of Debian's package, and this is no Debian with an ssh")
    fresh = CACHE.with_name(f"{CACHE.name}-{os.getpid()}")
    fresh.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["apt-get", "download", "-qq", *_PACKAGES], cwd=fresh, check=True, capture_output=True, timeout=120
        )
        for package in fresh.glob("*.deb"):
            subprocess.run(["dpkg", "-x", str(package), str(fresh)], check=True, capture_output=True)
        with contextlib.suppress(OSError):  # another process was faster
            fresh.rename(CACHE)
    except (subprocess.SubprocessError, OSError) as error:
        raise UnavailableError(f"openssh-server cannot be fetched: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return CACHE


@contextlib.contextmanager
def running(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Device]:
    """Gives a server for this user, with a key for it; `environment` is that of its sessions.

    Raises:
        UnavailableError: It does not start here.
    """
    root = unpacked()
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "bin").mkdir()
    cache, user = folder / "cache", pwd.getpwuid(os.getuid()).pw_name
    given = {"PATH": f"{folder}/bin:{os.environ['PATH']}", "XDG_CACHE_HOME": str(cache), **(environment or {})}
    settings = " ".join(f'"{name}={value}"' for name, value in given.items())
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/key.pub\n"
        "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"SetEnv {settings}\n"
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    (folder / "ssh_config").write_text(
        f"Host device\n  HostName 127.0.0.1\n  Port {port}\n  User {user}\n"
        f"Host *\n  IdentityFile {folder}/key\n  IdentitiesOnly yes\n  BatchMode yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n"
    )
    libraries = ":".join(str(path) for path in root.glob("**/*-linux-gnu") if path.is_dir())
    server = ["env", f"LD_LIBRARY_PATH={libraries}", f"{root}/usr/sbin/sshd", "-D", "-e", "-f", f"{folder}/sshd_config"]
    log = (folder / "log").open("wb")
    process = subprocess.Popen(server if os.getuid() else _as_root(server, folder), stdout=log, stderr=log)
    try:
        _wait(process, port, folder)
        yield Device("device", cache, folder, process)
    finally:
        process.terminate()
        process.wait()
        log.close()


def _as_root(server: list[str], folder: Path) -> list[str]:
    """Returns what starts it as root: it asks for a user and a folder, which only it sees."""
    users = Path("/etc/passwd").read_text()
    (folder / "passwd").write_text(users + "sshd:x:65533:65534::/nonexistent:/usr/sbin/nologin\n")
    script = (
        f"mount --bind {shlex.quote(str(folder / 'passwd'))} /etc/passwd && mount -t tmpfs none /run && "
        f"mkdir -m 755 /run/sshd && exec {shlex.join(server)}"
    )
    return ["unshare", "--mount", "sh", "-c", script]


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    until = time.monotonic() + _STARTS_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise UnavailableError(f"sshd does not start here: {(folder / 'log').read_text(errors='replace')[-300:]}")
