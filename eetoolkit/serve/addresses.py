"""Where this computer can be reached: its addresses in local networks, its names, and a port that is free."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Sequence

from eetoolkit_runtime.errors import EEToolkitError

LOOPBACK = "127.0.0.1"
_EVERYWHERE = "0.0.0.0"  # noqa: S104 - only with --lan, which asks for it
_TOWARDS = ("192.168.255.255", "10.255.255.255", "172.31.255.255", "192.0.2.1")
"""An address of each private network (RFC 1918), and one of documentation (RFC 5737) for the default route."""
_TRIED_PORTS = 20
_HOST = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*", re.IGNORECASE)


def lan_addresses() -> tuple[str, ...]:
    """Returns this computer's IPv4 addresses in its networks, the likeliest first.

    The kernel tells from where it would send; a datagram's `connect` sends nothing.
    """
    found: list[str] = []
    for other in _TOWARDS:
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect((other, 9))
            found.append(one.getsockname()[0])
    with contextlib.suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
    usable = [address for address in dict.fromkeys(found) if _reachable(address)]
    return tuple(sorted(usable, key=lambda address: not ipaddress.ip_address(address).is_private))


def host_names() -> tuple[str, ...]:
    """Returns the names by which other devices may know this computer: its own, and that of multicast DNS."""
    name = socket.gethostname().lower()
    if not _HOST.fullmatch(name) or name == "localhost":
        return ()
    return (name,) if "." in name else (name, f"{name}.local")


def checked_host(name: str) -> str:
    """Returns a name or an IPv4 address as it stands in an address.

    Raises:
        ValueError: It is neither.
    """
    if not _HOST.fullmatch(name):
        raise ValueError(name)
    return name.lower()


def host_of(header: str) -> str:
    """Returns the host in a header `Host`, without its port, in lower case."""
    host, colon, port = header.strip().lower().rpartition(":")
    return host if colon and port.isdigit() else header.strip().lower()


def listen(*, lan: bool, port: int | None, ports: Sequence[int] = (8000,)) -> socket.socket:
    """Returns a socket that listens, to this computer alone or to its networks.

    Args:
        lan: Whether to its networks.
        port: Which one; None: the first free one from each of `ports` on, else any.
        ports: Where to begin.

    Raises:
        EEToolkitError: The port is taken, or this user may not have it.
    """
    host = _EVERYWHERE if lan else LOOPBACK
    if port is not None:
        try:
            return _bound(host, port)
        except OSError as error:
            free = "choose another with --port, or leave --port out for a free one"
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else f"({error.strerror or error})"
            raise EEToolkitError(f"port {port} of {host} {why}: {free}") from error
    for each in (*(start + step for start in ports for step in range(_TRIED_PORTS)), 0):
        with contextlib.suppress(OSError):
            return _bound(host, each)
    raise EEToolkitError(f"no port of {host} is free")


def _bound(host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # Windows, where SO_REUSEADDR would let two programs have one port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, port))
        found.listen()
    except OSError:
        found.close()
        raise
    return found


def _reachable(address: str) -> bool:
    found = ipaddress.ip_address(address)
    return not (found.is_loopback or found.is_unspecified or found.is_multicast)
