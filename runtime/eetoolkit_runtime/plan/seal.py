"""The digest inside a manifest, by which damage and edits are seen.

It is the SHA-256 of the manifest's canonical form: the JSON text as it stands without its last member, the digest, and
without white space between tokens. Nothing is decoded for it, so that it is the same in every language.
"""

from __future__ import annotations

import re

import msgspec

from eetoolkit_runtime.errors import IntegrityError, ManifestError
from eetoolkit_runtime.log import log

DIGEST = "digest"
_SEALED = rb'(?s)(?P<rest>.*),"digest":"(?P<digest>[0-9a-f]{64})"\}'


def seal(text: bytes) -> bytes:
    """Returns a manifest without a digest, a JSON object, indented and with one."""
    compact = _compact(text)
    last = b',"digest":"%s"}' % sha256_of(compact).encode()
    return msgspec.json.format(compact[:-1] + last, indent=1) + b"\n"


def check_seal(text: bytes, what: str, fix: str) -> None:
    """Checks a manifest's digest; `what` names the manifest and `fix` what to do in errors.

    Raises:
        IntegrityError: The manifest has none as its last member, or holds something else than when it was written.
    """
    found = re.fullmatch(_SEALED, _compact(text))
    if found is None:
        raise IntegrityError(f"{what} does not end with its digest: {fix}")
    digest = sha256_of(found["rest"] + b"}")
    if digest != found["digest"].decode():
        raise IntegrityError(
            f"{what} was changed: its digest is {found['digest'].decode()[:12]}…, its content's {digest[:12]}…: {fix}"
        )
    log("debug", "%s has the digest %s", what, digest)


def _compact(text: bytes) -> bytes:
    try:
        return msgspec.json.format(text, indent=-1)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"manifest.json: {error}") from error


def sha256_of(text: bytes) -> str:
    """Returns 64 hexadecimal digits."""
    import hashlib  # it costs as much as this whole package to import

    return hashlib.sha256(text).hexdigest()
