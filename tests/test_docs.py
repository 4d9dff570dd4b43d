"""README and docs are true: their code runs and prints what they show, numbers aside; links and commands exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import numpy as np
import pytest
from once import digits_bundle, made_once
from pages import PAGES, ROOT, blocks, hasten, headings, links, masked, name_of, run

import eetoolkit as ee
from eetoolkit.cli import main
from eetoolkit.zoo import digits

ELSEWHERE = ("control-flow", "bundle-format", "clusters")
"""Pages that have tests of their own."""
RUN = [
    page for page in PAGES
    if page.stem not in ELSEWHERE and any(language in ("python", "console") for language, _ in blocks(page))
]  # fmt: skip
SHOWN = [(name_of(page), text) for page in PAGES for language, text in blocks(page) if language == "sh"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for granted: a reader's own network, checkpoint and rows, and what the quickstart has made."""
    folder = tmp_path_factory.mktemp("given")
    shutil.copy(ROOT / "examples/adapt.py", folder / "mine.py")
    spec = importlib.util.spec_from_file_location("mine", folder / "mine.py")
    assert spec is not None
    assert spec.loader is not None
    mine = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mine)
    shutil.copytree(made_once(tmp_path_factory, "adapt", mine.prepare), folder, dirs_exist_ok=True)
    images = digits.digits("test").images / 16
    shutil.copytree(digits_bundle(tmp_path_factory), folder / "digits.ee")
    np.save(folder / "digits.npy", images[:3])
    np.save(folder / "row.npy", images[1:2])
    return folder


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_blocks_of_a_page_print_what_it_shows(
    page: Path, given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(given, tmp_path, dirs_exist_ok=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "1")  # which a page sets
    hasten(monkeypatch)
    for shown, printed in run(page, tmp_path):
        assert masked(printed) == masked(shown)


def test_every_guide_has_code_that_runs() -> None:
    guides = {
        "README",
        "quickstart",
        "adapting",
        "exporting",
        "tuning",
        "quantizing",
        "profiling",
        "fleet",
        "monitoring",
        "where-to-split",
        "on-device",
        "remote",
        "phones",
    }
    assert guides == {page.stem for page in RUN}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md"], ids=name_of)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    for path, heading in links(page):
        target = page.parent / path if path else page
        assert target.exists(), path
        assert not heading or heading in headings(target), f"{path}#{heading}"


def test_a_link_that_leads_nowhere_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title, with `code`\n[a](gone.md) [b](#a-title-with-code) [c](https://example.org) `[d](e)`\n")
    assert links(page) == [("gone.md", ""), ("", "a-title-with-code")]
    assert headings(page) == {"a-title-with-code"}


@pytest.mark.parametrize(
    "command", [line for _, text in SHOWN for line in text.splitlines() if line.startswith("eetoolkit ")]
)
def test_a_command_that_a_page_shows_has_these_options(command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    verb: click.Command | None = main
    name: str | None = "eetoolkit"
    while isinstance(verb, click.Group):
        name, verb, arguments = verb.resolve_command(click.Context(verb), arguments)
    assert verb is not None
    verb.make_context(name, arguments)


def test_the_targets_extras_and_scripts_that_pages_name_exist() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"].keys()
    assert set(re.findall(r"`make ([\w-]+)`|^make ([\w-]+)", text, re.MULTILINE)) <= {
        pair for target in targets for pair in ((target, ""), ("", target))
    }
    assert {name for names in re.findall(r"'\.\[([\w,]+)\]'", text) for name in names.split(",")} <= extras
    for path in re.findall(r"`((?:tests|eetoolkit|benchmarks|docs|examples)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def test_the_readme_is_a_screen_and_a_half() -> None:
    assert len((ROOT / "README.md").read_text().split()) < 1000


def test_generated_figures_are_those_of_the_stored_results() -> None:
    from benchmarks.readme import BLOCKS, fill

    for page, made in BLOCKS.items():
        text = (ROOT / page).read_text()
        assert fill(text, made) == text, "run python -m benchmarks.readme"


def test_architecture_names_every_module_of_the_two_lower_rooms_and_of_the_product_where_it_is_large() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    lower = ("exporters/eetoolkit_exporters", "runtime/eetoolkit_runtime")
    product = ("tuning", "quantizing", "report", "adapting", "serve", "fleet", "cluster", "splitting", "monitoring")
    for room in (*lower, *(f"eetoolkit/{name}" for name in product)):
        for module in (ROOT / room).rglob("*.py"):
            if module.stem not in ("__init__", "errors"):
                assert f"`{module.stem}`" in text, module.stem


def test_the_api_page_has_every_public_name() -> None:
    text = (ROOT / "docs/api.rst").read_text()
    found = re.findall(r"^\.\. auto(?:function|class|exception):: (\w+)$", text, re.MULTILINE)
    assert sorted(found) == sorted(ee.__all__)


def test_the_zoo_page_has_every_system() -> None:
    from eetoolkit import zoo

    text = (ROOT / "docs/zoo.md").read_text()
    assert all(f"`{name}`" in text for name in zoo.names())


def examples() -> set[Path]:
    patterns = (
        "*.py",
        "node/*.mjs",
        "raspberry-pi/*",
        "cpp/*.cpp",
        "android/**/Model.kt",
        "android/**/*.c",
        "ios/*.swift",
    )
    return {path for pattern in patterns for path in (ROOT / "examples").glob(pattern) if path.is_file()}


def test_every_example_is_used_by_a_page() -> None:
    used = {(page.parent / path).resolve() for page in PAGES for path, _ in links(page)}
    assert examples() <= used
    assert {(ROOT / "examples" / name / "README.md") for name in ("android", "cpp", "ios")} <= used


def test_the_page_of_examples_shows_every_script() -> None:
    shown = set(re.findall(r"^.. literalinclude:: (.+)$", (ROOT / "docs/examples.rst").read_text(), re.MULTILINE))
    assert {(ROOT / "docs" / path).resolve() for path in shown} == examples()


def test_the_node_page_shows_the_script() -> None:
    (shown,) = (text for language, text in blocks(ROOT / "docs/phones.md") if language == "js")
    assert shown == (ROOT / "examples/node/answer.mjs").read_text()


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="needs the extra `docs`")
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", ROOT / "docs", tmp_path]
    made = subprocess.run(build, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert "max_accuracy_drop" in (tmp_path / "api.html").read_text()
    pages = {page: page.read_text() for page in tmp_path.rglob("*.html")}
    for page, text in pages.items():  # readable without a server
        for path in re.findall(r'(?:href|src)="((?!\w+:|#)[^"#?]+)', text):
            assert (page.parent / path).is_file(), path
    downloads = {path for text in pages.values() for path in re.findall(r"_downloads/[^\"]+", text)}
    schemas = {f"{name}.schema.json" for name in ("bundle-format", "profile", "single-file")}
    assert {Path(path).name for path in downloads} == schemas, "all other files are pages"
    text = (tmp_path / "quickstart.html").read_text()
    assert 'href="examples.html#own-checkpoint-py"' in text
