"""How a server is asked, as the user says it: `Runner(bundle, remote={...})`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from eetoolkit_runtime.arguments import shortened
from eetoolkit_runtime.errors import InputError, did_you_mean

TOKEN = "EETOOLKIT_TOKEN"  # noqa: S105 - the variable's name
"""The environment variable that holds the token where the settings have none."""
_TOKEN_GIVEN, _TOKEN_OF_ENVIRONMENT = "the token", f"the token in the environment's {TOKEN}"
NO_TOKEN = "no token: expected visible ASCII without spaces"  # noqa: S105 - what is said of it
Policy = Literal["remote", "faster", "local"]
Protocol = Literal["rest", "grpc"]
_PROTOCOLS: dict[str, tuple[Protocol, bool]] = {
    "https": ("rest", True), "http": ("rest", False), "grpcs": ("grpc", True), "grpc": ("grpc", False),
}  # fmt: skip
_PORTS = {"https": 443, "http": 80, "grpcs": 8001, "grpc": 8001}  # 8001 is that of Triton's own gRPC
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_MODEL = re.compile(r"/v2/models/([^/]+)/?")
_USER = re.compile(r"[^/]*//[^/?#]*@")
_FORM = "https://HOST/v2/models/NAME, or grpcs://HOST:PORT/v2/models/NAME"


class Secret(str):
    """A text that is not shown when what holds it is."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'...'"


class Address(msgspec.Struct, frozen=True):
    """Where the server is; `model` is what it calls the half that it runs."""

    protocol: Protocol
    host: str
    port: int
    encrypted: bool
    model: str

    @property
    def place(self) -> str:
        """Host and port as one text."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class _Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The mapping as it is given."""

    url: str
    at: str | None = msgspec.field(default=None, name="from")
    policy: Policy = "remote"
    expected_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    timeout_ms: Annotated[float, msgspec.Meta(gt=0, le=3.6e6)] = 1000.0
    retries: Annotated[int, msgspec.Meta(ge=0, le=10)] = 1
    token: str | None = None
    certificates: str | None = None
    tls: bool = True


class RemoteSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is asked.

    Attributes:
        address: Where it is.
        at: Where a whole bundle is cut: an exit or a segment; None: the bundle says so itself.
        policy: `remote`: rows that no exit here answers go to the server; `faster`: where that is expected to be
            faster than to go on here; `local`: never.
        expected_ms: What a request is expected to take before one was answered; None: nobody knows.
        timeout_ms: How long a call without a deadline waits for the server.
        retries: How often a request is sent again that was lost on its way, or that a server was too busy for.
        token: Sent as `Authorization: Bearer`; None: none is.
        token_named: Where it comes from, for errors.
        certificates: A file of the certificates that are trusted, PEM; None: the system's.
    """

    address: Address
    at: str | None = None
    policy: Policy = "remote"
    expected_ms: float | None = None
    timeout_ms: float = 1000.0
    retries: int = 1
    token: Secret | None = None
    token_named: str = _TOKEN_GIVEN
    certificates: str | None = None

    def refused(self, status: str) -> str:
        """Returns what to say where a server lets nobody in who asks like this."""
        if self.token is None:
            return f"the server wants a token ({status}): pass token= (--token-file FILE), or set {TOKEN}"
        return f"the server refuses {self.token_named} ({status})"


def parse(given: Mapping[str, object]) -> RemoteSettings:
    """Returns the settings that a mapping gives.

    Raises:
        InputError: A key that there is not, a value that it does not take, or a connection that would not be encrypted
            where nothing says that it need not be.
    """
    names = [field.encode_name for field in msgspec.structs.fields(_Given)]
    for name in given:
        if name not in names:
            raise InputError(
                f"remote: no key {shortened(name)}; there are {', '.join(names)}{did_you_mean(name, names)}"
            )
    if "policy" in given and given["policy"] not in get_args(Policy):
        expected = " or ".join(map(repr, get_args(Policy)))
        raise InputError(f"remote: policy is {shortened(given['policy'])}, expected {expected}")
    values = {name: os.fspath(value) if isinstance(value, Path) else value for name, value in given.items()}
    try:
        found = msgspec.convert(values, _Given)
    except msgspec.ValidationError as error:
        raise InputError(f"remote: {str(error).replace('`$.', '`')}") from error
    address = _address(found.url, tls=found.tls)
    if found.certificates is not None and not Path(found.certificates).is_file():
        raise InputError(f"remote: certificates is {shortened(found.certificates)}, which is no file")
    token, named = _token(found.token)
    if token is not None and not address.encrypted and address.host not in _LOOPBACK:
        raise InputError(f"remote: {named} would go to {address.host} unencrypted; use {_encrypted(found.url)}")
    return RemoteSettings(
        address=address,
        at=found.at,
        policy=found.policy,
        expected_ms=found.expected_ms,
        timeout_ms=found.timeout_ms,
        retries=found.retries,
        token=token,
        token_named=named,
        certificates=found.certificates,
    )


def _encrypted(url: str) -> str:
    """Returns how an address begins by which the same server may be asked over TLS."""
    return f"{url.partition(':')[0]}s://"


def is_token(text: str) -> bool:
    """Whether a text can stand in a head as a token."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _token(given: str | None) -> tuple[Secret | None, str]:
    """Returns the token that is given, else the environment's, and what to call it in errors."""
    if given is None:
        token, named = os.environ.get(TOKEN) or None, _TOKEN_OF_ENVIRONMENT
    else:
        token, named = given, _TOKEN_GIVEN
    if token is not None and not is_token(token):
        raise InputError(f"remote: {named} is {NO_TOKEN}")
    return None if token is None else Secret(token), named


def _address(url: str, *, tls: bool) -> Address:
    if _USER.match(url):  # before anything shows the address
        raise InputError(
            "remote: url names a user or a password, which would be shown; pass token= (--token-file FILE)"
        )
    parts, port = _split(url)
    kind = _PROTOCOLS.get(parts.scheme)
    model = _MODEL.fullmatch(parts.path)
    if kind is None or not parts.hostname or model is None or parts.query or parts.fragment:
        raise InputError(f"remote: url is {shortened(url)}, expected {_FORM}")
    protocol, encrypted = kind
    if not encrypted and tls and parts.hostname not in _LOOPBACK:
        raise InputError(
            f"remote: {parts.scheme}:// to {parts.hostname} is not encrypted: use {parts.scheme}s://, or say tls=False "
            "(--unencrypted)"
        )
    return Address(protocol, parts.hostname, port or _PORTS[parts.scheme], encrypted, unquote(model[1]))


def _split(url: str) -> tuple[SplitResult, int | None]:
    """Returns a URL's parts and its port."""
    plain = url if url.isascii() and url.isprintable() and " " not in url else ""
    try:
        parts = urlsplit(plain)
        port = parts.port
    except ValueError as error:
        raise InputError(f"remote: url is {shortened(url)}, expected {_FORM}") from error
    return parts, port
