"""What every answer says beside its content, so that a page may use threads and fetches nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

_POLICY = {
    "default-src": "'none'",
    "script-src": "'self' 'wasm-unsafe-eval'",
    "worker-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' blob: data:",
    "media-src": "'self' blob:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        # These two make the page isolated, without which a browser gives WebAssembly no threads.
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-embedder-policy": "require-corp",
        "cross-origin-resource-policy": "same-origin",
        "content-security-policy": "; ".join(f"{what} {sources}" for what, sources in _POLICY.items()),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
    }
)
"""By their names in lower case."""
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


def media_type(name: str) -> str:
    """Returns the media type of a file by its name's ending; of one that nobody knows, bytes."""
    return _TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")
