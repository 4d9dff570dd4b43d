"""The page and its bundles as static files, for any web server."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from eetoolkit.serve.headers import HEADERS, media_type
from eetoolkit.serve.site import Site
from eetoolkit_runtime.bundle.store import staging, sync
from eetoolkit_runtime.errors import EEToolkitError
from eetoolkit_runtime.files.outfile import PARTIAL
from eetoolkit_runtime.files.paths import absolute, shown

_MARK = "serve.json"
"""What every such folder has: one without is somebody else's, and is never replaced."""


def check_folder(target: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """Returns the path of a folder that may be written; to be asked before any work is done for it.

    Raises:
        EEToolkitError: Something is there: another thing than an export, or an export and `overwrite` is not set.
    """
    place = absolute(target, EEToolkitError)
    try:
        if place.exists():
            _check(place, overwrite=overwrite)
        parent = next(each for each in place.parents if each.exists())
        if not parent.is_dir() or not os.access(parent, os.W_OK):
            raise EEToolkitError(f"cannot write {shown(place)}: the folder {shown(parent)} cannot be written to")
    except OSError as error:
        raise EEToolkitError(f"cannot write {shown(place)}: {error.strerror or error}") from error
    return place


def _check(place: Path, *, overwrite: bool) -> None:
    if place.is_symlink() or not place.is_dir() or (any(place.iterdir()) and not (place / _MARK).is_file()):
        raise EEToolkitError(f"{shown(place)} exists and is no export of eetoolkit; choose another name")
    if (place / _MARK).is_file() and not overwrite:
        raise EEToolkitError(f"{shown(place)} exists; pass overwrite=True (--overwrite) to replace it")


def export_site(site: Site, target: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Writes all files of a site, and what a web server needs to know, to a folder in one step; returns its path.

    Raises:
        EEToolkitError: See `check_folder`; or the disk is full, or another `OSError` while it is written.
    """
    place = check_folder(target, overwrite=overwrite)
    files = site.files()
    with staging(place) as staged:
        for name, file in files.items():
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file.content, bytes):
                path.write_bytes(file.content)
            else:
                shutil.copyfile(file.content, path)
        (staged / "README.md").write_text(_readme(), encoding="utf-8")
        (staged / "_headers").write_text(_headers(), encoding="utf-8")
        for path in (*staged.rglob("*"), staged):
            sync(path)
        check_folder(place, overwrite=overwrite)  # it may have come meanwhile
        _put(staged, place)
    return place


def _put(staged: Path, place: Path) -> None:
    """Puts a folder in the place of another; a kill in between leaves both, the old one under another name."""
    if not place.exists():
        staged.rename(place)
        return
    old = staged.with_name(f"{place.name}{PARTIAL}old-{staged.name.rpartition('-')[2]}")
    place.rename(old)
    try:
        staged.rename(place)
    except OSError:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _headers() -> str:
    """Returns the headers as Netlify and Cloudflare Pages read them."""
    lines = [f"  {_titled(name)}: {value}" for name, value in HEADERS.items()]
    return "\n".join(["/*", *lines, "/*.wasm", f"  Content-Type: {media_type('a.wasm')}", ""])


def _titled(name: str) -> str:
    return "-".join(part.capitalize() for part in name.split("-"))


def _readme() -> str:
    named = {_titled(name): value for name, value in HEADERS.items()}
    return _README.format(
        plain="\n".join(f"{name}: {value}" for name, value in named.items()),
        nginx="\n".join(f'    add_header {name} "{value}" always;' for name, value in named.items()),
        caddy="\n".join(f'    header {name} "{value}"' for name, value in named.items()),
    )


_README = """\
# A page that runs an early-exit network

`eetoolkit serve --export` wrote these files. Any web server can serve them, from any folder, by https or from
localhost. They ask no other server for anything.

The page verifies a bundle on its golden samples, profiles it in the visitor's own browser, and runs pictures. Nothing
is sent back: a profile is a file that the visitor saves.

Whoever can open the page can copy the bundles: networks, weights and golden samples.

## Headers

```
{plain}
```

With the first two and https a browser gives WebAssembly threads. Without them the page runs on one thread, and says so.
The others keep the page from loading or sending anything elsewhere.

A `.wasm` file has the type `application/wasm`, a `.js` or `.mjs` file `text/javascript`. The server should compress
`.wasm` files: 14 MB become 4.

### nginx

```
location / {{
    types {{
        text/html html;
        text/css css;
        text/javascript js mjs;
        image/svg+xml svg;
        application/json json;
        application/wasm wasm;
    }}
    gzip on;
    gzip_types text/css text/javascript application/json application/wasm;
{nginx}
}}
```

### Caddy

```
example.org {{
    root * /srv/page
    encode gzip
    file_server
{caddy}
}}
```

### Netlify, Cloudflare Pages

`_headers` in this folder is what they read.

### Hosts without headers, such as GitHub Pages

The page works there on one thread.
"""
