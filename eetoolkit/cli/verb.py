"""What every verb's command has: examples in its help, its options in groups, an answer to a name that is misspelt."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click

from eetoolkit_runtime.errors import did_you_mean

_WRITTEN = f"{__name__}.written"
_OTHERS = "Options"
_BESIDE = 30  # columns of an option that has its help beside it; below, on narrow terminals, hardly any has


class _Exemplified(click.Command):
    """A command whose help ends with examples: command lines that can be copied as they are."""

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """Writes the examples, each on a line of its own however long it is."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")


class Verb(_Exemplified):
    """A command whose options stand in groups.

    Args:
        arguments: See `click.Command`.
        groups: Names of options by the heading that they stand under in the help, in this order; the others stand
            under `Options`, last.
        settings: See `click.Command`.
    """

    def __init__(self, *arguments: Any, groups: Mapping[str, Collection[str]] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.groups = dict(groups or {})

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keeps what was written, for who runs the same verb elsewhere."""
        ctx.meta[_WRITTEN] = list(args)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options in their groups."""
        grouped = {name: heading for heading, names in self.groups.items() for name in names}
        records: dict[str, list[tuple[str, str]]] = {heading: [] for heading in (*self.groups, _OTHERS)}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):  # the usage has the arguments
                records[grouped.get(option.name or "", _OTHERS)].append(record)
        beside = _BESIDE if formatter.width >= 2 * _BESIDE else formatter.width // 4
        for heading, rows in records.items():
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows, col_max=beside)


def written(ctx: click.Context) -> dict[str, Any]:
    """Returns what was written on the command line, by the parameters' names, not yet converted."""
    found, _, _ = ctx.command.make_parser(ctx).parse_args(list(ctx.meta[_WRITTEN]))
    return {str(name): value for name, value in found.items() if value not in (None, (), [])}


class Verbs(_Exemplified, click.Group):
    """Commands, the closest of which is offered for a name that none has.

    Args:
        arguments: See `click.Group`.
        instead: What to write for names that are taken for commands.
        settings: See `click.Group`.
    """

    def __init__(self, *arguments: Any, instead: Mapping[str, str] | None = None, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.instead = dict(instead or {})

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Returns the command that is asked for."""
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-"):
            if name in self.instead:
                ctx.fail(f"no command {name!r}; write `{self.instead[name]}`")
            ctx.fail(f"no command {name!r}" + (did_you_mean(name, known) or f"; there are {', '.join(known)}"))
        return super().resolve_command(ctx, args)
