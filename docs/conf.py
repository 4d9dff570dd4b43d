"""The site: the pages of this folder and the API reference, by Sphinx. `make docs` builds it into build/docs."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

from sphinx.application import Sphinx

from eetoolkit_runtime.bundle import bundle

project = "eetoolkit"
author = "the eetoolkit authors"
copyright = author  # noqa: A001 - Sphinx reads this name
version = release = version_of("eetoolkit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"eetoolkit {version}"
html_show_sphinx = False

default_role = "code"  # docstrings say `name`, as Markdown does
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # attributes are documented in the class, once

myst_heading_anchors = 3


_ROOT = Path(__file__).parents[1]
_COPIES = {
    "README.md": "repository/readme.md",
    "CONTRIBUTING.md": "repository/contributing.md",
    "benchmarks/README.md": "repository/benchmarks.md",
    "runtime/conformance/README.md": "repository/conformance.md",
    "examples/android/README.md": "repository/android.md",
    "examples/cpp/README.md": "repository/cpp.md",
    "examples/ios/README.md": "repository/ios.md",
}
"""Pages of the site that are files outside of this folder: copied into it whenever the site is built."""
_LINK = re.compile(r"\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def setup(app: Sphinx) -> None:
    """Prepares what Sphinx by itself does not take."""
    bundle.Path = Path  # type: ignore[attr-defined]  # a device imports it for types alone
    app.connect("source-read", _link_page)
    for file, copy in _COPIES.items():
        target = Path(app.srcdir) / copy
        target.parent.mkdir(exist_ok=True)
        target.write_text(_linked((_ROOT / file).read_text(), (_ROOT / file).parent))


def _link_page(app: Sphinx, page: str, source: list[str]) -> None:
    if f"{page}.md" not in _COPIES.values():
        source[0] = _linked(source[0], Path(app.srcdir))


def _linked(text: str, folder: Path) -> str:
    """Returns a text from some folder with its links to files as links to pages of the site."""

    def link(found: re.Match[str]) -> str:
        shown, path, heading = found.groups()
        file = (folder / path).resolve().relative_to(_ROOT)
        page = _COPIES.get(file.as_posix(), file.as_posix().removeprefix("docs/"))
        if file.parts[0] in ("examples", "runtime") and not page.startswith("repository/"):
            return f"[{shown}](#{file.name})"  # shown on a page of sources
        return f"[{shown}](/{page}{heading or ''})"

    return _LINK.sub(link, text)
