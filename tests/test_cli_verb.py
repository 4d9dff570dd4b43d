"""Help that can be copied from: examples that are right, options in groups, and names that were meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest
from shell import call

from eetoolkit.cli import main
from eetoolkit.cli.verb import Verb, Verbs


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yields every command with the names that lead to it."""
    yield path, group
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


EVERY = {" ".join(("eetoolkit", *path)): command for path, command in commands()}


def parse(line: str) -> None:
    """Parses a command line as far as its options and arguments go, without running it."""
    command: click.Command = main
    program, *words = shlex.split(line.rpartition("| ")[2])
    assert program == "eetoolkit"
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, line
        command, words = found, words[1:]
    if "--help" not in words:
        command.make_context("eetoolkit", words)


@pytest.mark.parametrize("name", EVERY)
def test_help_ends_with_examples_of_this_command_that_are_right(name: str) -> None:
    text = call(*name.split()[1:], "--help").stdout
    examples = text.partition("\nExamples:\n")[2].splitlines()
    assert examples
    for example in examples:
        assert name in example
        parse(example.strip())


def test_a_wrong_example_is_found() -> None:
    for line in (
        "eetoolkit run digits.ee x.npy --colour red",
        "eetoolkit truncate digits.ee",
        "eetoolkit run digits.ee",
    ):
        with pytest.raises(click.UsageError):
            parse(line)


@pytest.mark.parametrize("name", [name for name, command in EVERY.items() if isinstance(command, Verb)])
def test_every_option_stands_once_in_the_help_under_a_heading_with_words(name: str) -> None:
    command = EVERY[name]
    assert isinstance(command, Verb)
    text = call(*name.split()[1:], "--help").stdout.partition("\nExamples:\n")[0]
    text = text[re.search(r"^\S.*:$", text, re.MULTILINE).start() :]  # type: ignore[union-attr] # there is one
    context = click.Context(command)
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    for option in options:
        shown = re.findall(rf"^  (?:-\w, )?{option.opts[-1]}\b", text, re.MULTILINE)
        assert len(shown) == 1, option.name
        assert option.help, option.name
    grouped = [each for names in command.groups.values() for each in names]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) <= {option.name for option in options}
    others = {option.name for option in options}.difference(grouped)
    assert len(options) < 10 or len(others) <= 3, "the rest are too many for one list"
    headings = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    assert headings == [*command.groups, "Options"]
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("columns", [40, 80])
def test_help_fits_the_terminal(columns: int) -> None:
    for name in EVERY:
        done = call(*name.split()[1:], "--help", columns=columns)
        text = done.stdout.partition("\nExamples:\n")[0]
        assert done.exit_code == 0
        too_long = [line for line in text.splitlines() if len(line) > columns and len(line.split()) > 1]
        assert not [line for line in too_long if not line.startswith(("Usage: ", "  -"))], name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("exprot",), "no command 'exprot'; did you mean 'export'?"),
        (("zoo", "lst"), "no command 'lst'; did you mean 'list'?"),
        (("zebra",), "no command 'zebra'; there are demo, adapt, export, "),
        (("run", "x.ee", "y.npy", "--trheads", "1"), "No such option '--trheads'. (Did you mean one of: '--threads'"),
        (("truncate", "b.ee", "--att", "exit1"), "--at"),
    ],
)
def test_a_name_that_is_misspelt_gets_the_one_that_was_meant(arguments: tuple[str, ...], said: str) -> None:
    done = call(*arguments)
    assert done.exit_code == 2
    assert said in done.stderr


def test_groups_of_commands_end_with_examples_too() -> None:
    assert all(command.examples for command in EVERY.values() if isinstance(command, Verb | Verbs))
