"""Which files are served, by their paths below the address: of the page, onnxruntime and the bundles, none else."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shlex
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from eetoolkit.serve.headers import media_type
from eetoolkit.serve.onnxruntime_web import PACKAGE, Asset
from eetoolkit_runtime.bundle.bundle import Bundle, load_again
from eetoolkit_runtime.bundle.integrity import read_regular
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.plan.types import MANIFEST, MANIFEST_LIMIT_BYTES

Mode = Literal["https", "http", "localhost", "static"]
STATIC = Path(__file__).parent / "static"
_INDEX = "index.html"
_FOREVER = "private, max-age=31536000, immutable"
_ASK = "no-cache"  # kept, and asked for again with its tag
_SMALL_BYTES = 1000  # which one packet holds, compressed or not
_ABOUT = "serve.json"
_OF_BUNDLE = re.compile(r"bundles/(0|[1-9][0-9]{0,3})/(.+)")


@dataclass(frozen=True)
class Served:
    """One file as it goes over the wire.

    Attributes:
        content: Its bytes, or where they lie.
        media_type: What it is.
        tag: What stands for its content, without quotes.
        cache: The header `Cache-Control`.
        gzipped: The same, compressed; None where that saves nothing.
    """

    content: bytes | Path
    media_type: str
    tag: str
    cache: str = _ASK
    gzipped: bytes | Path | None = None


class Shelf:
    """One bundle's files: those of its manifest as it is on disk, which may be tuned while it is served."""

    def __init__(self, place: str | os.PathLike[str] | Bundle) -> None:
        """Opens a bundle, every hash checked.

        Raises:
            EEToolkitError: See `ee.load`.
        """
        self._lock = threading.Lock()
        self._put(place)

    def renew(self) -> None:
        """Opens the bundle again, every hash checked, where its manifest has changed.

        Raises:
            EEToolkitError: It cannot be opened any more; what is served stays as it was.
        """
        with self._lock:
            if _stamp(self.bundle.archive or self.bundle.path) != self._seen:
                self._put(self.bundle)

    def _put(self, place: str | os.PathLike[str] | Bundle) -> None:
        path = (place.archive or place.path) if isinstance(place, Bundle) else Path(place)
        seen = _stamp(path)  # first: what changes from here on is noticed later
        bundle = load_again(place, check="full")
        text = read_regular(bundle.path / MANIFEST, MANIFEST_LIMIT_BYTES)
        files = {MANIFEST: held(MANIFEST, text)}
        for name, entry in bundle.manifest.files.items():
            # A name that holds its hash never means other bytes; others do once a bundle is written anew.
            cache = _FOREVER if f"-{entry.sha256[:8]}." in name else _ASK
            files[name] = Served(bundle.path / name, media_type(name), entry.sha256, cache)
        self.bundle, self.files, self._seen = bundle, files, seen


class Site:
    """All files, by their paths."""

    def __init__(self, shelves: Sequence[Shelf], page: Mapping[str, Served], about: Mapping[str, object]) -> None:
        """Takes the bundles, the files beside them, and what `serve.json` says further."""
        self.shelves = tuple(shelves)
        self._page = page
        self._about = about

    def find(self, path: str) -> Served | None:
        """Returns the file at a path; None where there is none. A bundle that has changed is opened again.

        Raises:
            EEToolkitError: The bundle has changed and cannot be opened.
        """
        if path == _ABOUT:
            return self._description()
        found = _OF_BUNDLE.fullmatch(path)
        if found is None or int(found[1]) >= len(self.shelves):
            return self._page.get(path or _INDEX)
        shelf = self.shelves[int(found[1])]
        if found[2] == MANIFEST:
            shelf.renew()
        return shelf.files.get(found[2])

    def files(self) -> dict[str, Served]:
        """Returns all files by their paths; paths are names in this, and lead nowhere else."""
        found = dict(self._page)
        for number, shelf in enumerate(self.shelves):
            found |= {f"bundles/{number}/{name}": file for name, file in shelf.files.items()}
        return found | {_ABOUT: self._description()}

    def _description(self) -> Served:
        tells = bool(self._about.get("upload"))
        names = [shelf.bundle.manifest.name for shelf in self.shelves]
        bundles = [
            {
                "name": name if names.count(name) == 1 else f"{name} ({shelf.bundle.place})",
                "path": f"bundles/{number}/",
                "command": tune_command(shelf.bundle, "profiles/DEVICE.json") if tells else None,
            }
            for number, (name, shelf) in enumerate(zip(names, self.shelves, strict=True))
        ]
        return held(_ABOUT, msgspec.json.encode({"version": 1, **self._about, "bundles": bundles}))


def site_of(shelves: Sequence[Shelf], assets: Mapping[str, Asset], mode: Mode, *, static: Path | None = None) -> Site:
    """Returns what is served: bundles, onnxruntime's files and the page, in a mode.

    Raises:
        EEToolkitError: The page is not there.
    """
    import eetoolkit

    static = STATIC if static is None else static
    page = {path.name: held(path.name, path.read_bytes()) for path in static.glob("*.*") if path.is_file()}
    if _INDEX not in page:
        raise EEToolkitError(f"the page is not there, {static / _INDEX}; in a clone, `make web` builds it")
    for name, asset in assets.items():
        page[f"ort/{name}"] = Served(asset.path, media_type(name), asset.sha256, _FOREVER, asset.gzipped)
    about = {
        "eetoolkit": eetoolkit.__version__,
        "onnxruntime_web": PACKAGE.version,
        "upload": mode != "static",
        "mode": mode,
    }
    return Site(shelves, page, about)


def tune_command(bundle: Bundle, profile: str) -> str:
    """Returns the command that tunes a bundle by a profile; DEVICE and YOUR stand for what nobody knows yet."""
    apply = "" if bundle.archive is not None else " --apply"  # what is packed cannot be changed
    return (
        f"eetoolkit tune {shlex.quote(str(bundle.place))} --data YOUR.npz --profile {shlex.quote(profile)} "
        f"--max-accuracy-drop 0.01{apply}"
    )


def held(name: str, content: bytes) -> Served:
    """Returns a small file that is kept in memory."""
    gzipped = gzip.compress(content, mtime=0) if len(content) > _SMALL_BYTES else None
    return Served(content, media_type(name), hashlib.sha256(content).hexdigest(), gzipped=gzipped)


def _stamp(place: Path) -> tuple[int, int, int] | None:
    """Returns what changes when a bundle is written anew; None where nothing is there."""
    try:
        found = (place / MANIFEST if place.is_dir() else place).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
