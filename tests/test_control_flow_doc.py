"""The page on control flow is true: its blocks run in order and print what it says, and its errors are ours."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from eetoolkit_exporters.capturing import torch_errors
from eetoolkit_exporters.capturing.capture import capture
from eetoolkit_exporters.capturing.source import choose_exits
from eetoolkit_exporters.capturing.torch_source import TorchSource

PAGE = (Path(__file__).parents[1] / "docs" / "control-flow.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Returns what the page's Python has made, its output compared block by block."""
    names: dict[str, Any] = {}
    printed = ""
    with contextlib.chdir(tmp_path_factory.mktemp("page")):
        for language, text in BLOCKS:
            if language == "python":
                with contextlib.redirect_stdout(io.StringIO()) as output:
                    exec(text, names)  # noqa: S102 - the page's own code
                printed = output.getvalue()
            elif language == "text":
                assert printed == text
    return names


def test_the_blocks_run_and_print_what_the_page_says(names: dict[str, Any]) -> None:
    assert [language for language, _ in BLOCKS].count("text") == 1
    assert len(names["paths"]) == 2


def test_a_loop_ends_by_its_condition_before_its_bound(names: dict[str, Any]) -> None:
    assert 1 < max(names["answer"].visits.values()) <= 8


@pytest.mark.parametrize("name", ["Gated", "Routed", "Repeated", "Halting", "LoopWithExit", "Reordered"])
def test_a_network_of_the_page_is_a_module_that_is_captured(name: str, names: dict[str, Any]) -> None:
    source = TorchSource(names[name]().eval(), torch.zeros(1, 64))
    network = capture(source, choose_exits(source, None))
    kinds = {node.op_type for node in network.graph.all_nodes()}
    assert kinds & {"If", "Loop"}


def test_the_network_with_an_exit_in_its_loop_has_it(names: dict[str, Any]) -> None:
    source = TorchSource(names["network"], torch.zeros(1, 64))
    assert [name for name, _ in source.run_visits({"x": torch.zeros(1, 64).numpy()})] == ["step"] * 4 + ["last"]


ROWS = [
    error for error in re.findall(r"^\| (.+?) \| .+ \|$", PAGE, flags=re.MULTILINE)
    if error not in ("error", "---", "the network draws random numbers in evaluation")
]  # fmt: skip


@pytest.mark.parametrize("error", ROWS)
def test_an_error_on_the_page_is_one_that_we_give(error: str) -> None:
    parts = [part.strip() for part in error.split("...")]
    words = [*torch_errors.KNOWN.values(), *torch_errors.LEAVES.values(), torch_errors.READS_DATA]
    said = [text.replace(r"of \1", "of map") for text in words]
    assert any(re.search(".*".join(map(re.escape, parts)), text) for text in said)
