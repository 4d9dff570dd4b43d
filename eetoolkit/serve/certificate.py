"""A certificate for https that this computer makes for itself, since a page may use a camera and threads only so."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
import os
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from eetoolkit_runtime.bundle.archive import default_cache
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.paths import shown

_DAYS = 397  # browsers refuse more of certificates that are trusted (Apple, from September 2020 on)
_RENEWED_DAYS = 7  # before its end
_DIGITS = 16
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True)
class Certificate:
    """A certificate and its key in one PEM file, which its owner alone may read.

    Attributes:
        path: Where.
        fingerprint: The certificate's SHA-256 as browsers show it, in hexadecimal with colons.
        is_new: Whether it was made just now, so that no browser knows it.
    """

    path: Path
    fingerprint: str
    is_new: bool


def certificate(hosts: Sequence[str], *, cache: Path | None = None, now: dt.datetime | None = None) -> Certificate:
    """Returns the certificate for these names and addresses, the same as before where there is one that still holds.

    Each set of hosts has its own, so that a computer that comes back to a network is known there.

    Raises:
        EEToolkitError: It cannot be kept.
    """
    now = now or dt.datetime.now(dt.UTC)
    folder = (default_cache() if cache is None else cache) / "certificates"
    path = folder / f"{hashlib.sha256(chr(10).join(sorted(hosts)).encode()).hexdigest()[:_DIGITS]}.pem"
    kept = _kept(path, hosts, now)
    if kept is not None:
        return Certificate(path, _fingerprint(kept), is_new=False)
    key = ec.generate_private_key(ec.SECP256R1())
    made = _made(key, hosts, now)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        handle, name = tempfile.mkstemp(dir=folder, prefix=path.name)  # of mode 0600
        with os.fdopen(handle, "wb") as file:
            file.write(_pem(key, made))
        Path(name).replace(path)
    except OSError as error:
        raise EEToolkitError(f"cannot keep a certificate in {shown(folder)}: {error.strerror or error}") from error
    return Certificate(path, _fingerprint(made), is_new=True)


def _kept(path: Path, hosts: Sequence[str], now: dt.datetime) -> x509.Certificate | None:
    """Returns the certificate in a file with its key; None where it is missing, damaged, another's or near its end."""
    try:
        about = path.lstat()
        text = path.read_bytes()
        found = x509.load_pem_x509_certificate(text)
        key = serialization.load_pem_private_key(text, None)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return None
    ours = stat.S_ISREG(about.st_mode) and (os.name == "nt" or (not about.st_mode & _OTHERS and _is_mine(about)))
    holds = now + dt.timedelta(days=_RENEWED_DAYS) < found.not_valid_after_utc and found.not_valid_before_utc <= now
    same = key.public_key() == found.public_key() and set(names) == set(_names(hosts))
    return found if ours and holds and same else None


def _is_mine(about: os.stat_result) -> bool:
    return about.st_uid == os.getuid()


def _made(key: ec.EllipticCurvePrivateKey, hosts: Sequence[str], now: dt.datetime) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "eetoolkit serve, on this computer")])
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=False, crl_sign=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # a phone's clock may be behind
        .not_valid_after(now + dt.timedelta(days=_DAYS - 1))
        .add_extension(x509.SubjectAlternativeName(_names(hosts)), critical=False)
        # Whoever trusts it trusts this server and nothing that its key would sign.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )


def _names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _pem(key: ec.EllipticCurvePrivateKey, made: x509.Certificate) -> bytes:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return secret + made.public_bytes(serialization.Encoding.PEM)


def _fingerprint(found: x509.Certificate) -> str:
    return found.fingerprint(hashes.SHA256()).hex(":").upper()
