"""The site: the pages of this folder and the API reference, by Sphinx. `make docs` builds it into build/docs."""

import re
from importlib.metadata import version as version_of
from pathlib import Path

from pygments.lexers.special import TextLexer
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


def setup(app: Sphinx) -> None:
    """Prepares what Sphinx by itself does not take."""
    bundle.Path = Path  # type: ignore[attr-defined]  # a device imports it for types alone
    # Mermaid is shown as text: its renderer would come from elsewhere whenever a page is read.
    app.add_lexer("mermaid", TextLexer)
    app.connect("source-read", _link_files)


def _link_files(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Makes downloads of the links to files outside of this folder, which are no pages of the site."""
    source[0] = re.sub(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)", r"{download}`\1 <\2>`", source[0])
