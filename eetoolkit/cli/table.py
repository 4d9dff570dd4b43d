"""Tables and pairs for a terminal of any width: no number and no name in them is ever cut.

One rule for all. Where a table is too wide, its columns of prose are folded between words. Where that is not enough, it
is printed in parts of fewer columns, the first one, which names the rows, in each. Where not even two columns fit, or
rows share a name, the rows are printed as records. A word that is longer than the line stays whole: the terminal shows
it on the next line too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import click

from eetoolkit.cli import terminal

_GAP = 2
_PROSE = 20  # columns of a terminal that a column of prose keeps, where it has as many

Cell = str | tuple[str, ...]
"""What stands in a row and a column; of a tuple, each on a line of its own."""


class Table:
    """Rows under headings, without a frame, so that it can be cut up.

    Args:
        headings: Of the columns.
        right: Which of them are aligned to the right.
        prose: Which of them may be folded.
        colours: Of what stands in the first column.
        shown: Whether the headings are printed.
    """

    def __init__(
        self,
        *headings: str,
        right: Collection[str] = (),
        prose: Collection[str] = (),
        colours: Mapping[str, str] | None = None,
        shown: bool = True,
    ) -> None:
        self._headings = [terminal.legible(heading) for heading in headings]
        self._right = [heading in right for heading in headings]
        self._prose = [heading in prose for heading in headings]
        self._colours = dict(colours or {})
        self._shown = shown
        self._rows: list[list[tuple[str, ...]]] = []

    def add(self, *cells: Cell) -> None:
        """Adds a row, a cell for each column."""
        parts = [(cell,) if isinstance(cell, str) else cell for cell in cells]
        self._rows.append([tuple(map(terminal.legible, lines)) for lines in parts])

    def print(self) -> None:
        """Prints it on stdout: as wide as the terminal, or in full to a pipe or a file."""
        terminal.write(self.lines(terminal.columns()))

    def lines(self, width: int | None) -> Iterator[str]:
        """Yields its lines, for a terminal of so many columns; None: of any number."""
        parts = self._parts(width)
        if parts is None:
            yield from self._records(width or 0)
            return
        for number, part in enumerate(parts):
            if number:
                yield ""
            yield from self._part(part, width)

    def _parts(self, width: int | None) -> list[list[int]] | None:
        """Returns the columns of each part; None where rows must be records."""
        first, *others = range(len(self._headings))
        named = len({row[first] for row in self._rows}) == len(self._rows)
        parts = [[first]]
        for column in others:
            if width is None or self._least([*parts[-1], column]) <= width:
                parts[-1].append(column)
            elif not named or self._least([first, column]) > width:
                return None
            else:
                parts.append([first, column])
        return parts

    def _least(self, part: Sequence[int]) -> int:
        return sum(map(self._narrowest, part)) + _GAP * (len(part) - 1)

    def _narrowest(self, column: int) -> int:
        """Returns the width that a column must have: of prose that of its longest word, and room for some of them."""
        natural = self._natural(column)
        return max(self._word(column), min(_PROSE, natural)) if self._prose[column] else natural

    def _part(self, part: Sequence[int], width: int | None) -> Iterator[str]:
        widths = {column: self._natural(column) for column in part}
        excess = 0 if width is None else sum(widths.values()) + _GAP * (len(part) - 1) - width
        for _ in range(excess):
            give_way = [column for column in part if widths[column] > self._narrowest(column)]
            if give_way:
                widths[max(give_way, key=widths.__getitem__)] -= 1
        if self._shown:
            yield self._line({column: self._headings[column] for column in part}, widths)
        for row in self._rows:
            folded = {
                column: [line for text in row[column] for line in terminal.fold(text, widths[column])]
                if self._prose[column]
                else list(row[column])
                for column in part
            }
            for number in range(max(map(len, folded.values()))):
                texts = {column: "".join(lines[number : number + 1]) for column, lines in folded.items()}
                yield self._line(texts, widths)

    def _line(self, texts: Mapping[int, str], widths: Mapping[int, int]) -> str:
        found = ""
        for column, text in texts.items():
            padding = " " * (widths[column] - terminal.cells(text))
            found += (padding + text if self._right[column] else self._coloured(column, text) + padding) + " " * _GAP
        return found.rstrip()

    def _records(self, width: int) -> Iterator[str]:
        """Yields each row as its first cell and, below it, a line for every other one."""
        for number, row in enumerate(self._rows):
            if number:
                yield ""
            keys = self._headings if self._shown else [""] * len(row)
            named = [(f"{keys[0]}: " if keys[0] else "") + text for text in row[0]]
            for text in named:
                first, *others = terminal.hang(text, width)
                yield self._coloured(0, first)
                yield from others
            pairs = zip(keys[1:], map(" ".join, row[1:]), strict=True)
            yield from _pairs([pair for pair in pairs if pair[1]], width, indent=_GAP)

    def _coloured(self, column: int, text: str) -> str:
        return click.style(text, fg=self._colours[text]) if column == 0 and text in self._colours else text

    def _natural(self, column: int) -> int:
        heading = self._headings[column] if self._shown else ""
        return max(map(terminal.cells, [heading, *(text for row in self._rows for text in row[column])]))

    def _word(self, column: int) -> int:
        heading = self._headings[column] if self._shown else ""
        words = [word for row in self._rows for text in row[column] for word in text.split()]
        return max(map(terminal.cells, [heading, *words]))


def print_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Prints keys and what stands behind each, aligned, on stdout."""
    legible = [(terminal.legible(key), terminal.legible(value)) for key, value in pairs]
    terminal.write(_pairs(legible, terminal.columns()))


def _pairs(pairs: Sequence[tuple[str, str]], width: int | None, indent: int = 0) -> Iterator[str]:
    """Yields a line for each pair; a value that has no room beside its key stands below it."""
    margin, keys = " " * indent, max((terminal.cells(key) for key, _ in pairs), default=0)
    beside = indent + keys + _GAP if keys else indent
    for key, value in pairs:
        padded = margin + key + " " * (beside - indent - terminal.cells(key))
        if width is None:
            yield (padded + value).rstrip()
            continue
        room, longest = width - beside, max(map(terminal.cells, value.split() or [""]))
        below = keys and room < min(longest, width - indent - _GAP)
        if below:
            yield margin + key
            padded, room = margin + " " * _GAP, width - indent - _GAP
        first, *others = terminal.fold(value, room)
        yield (padded + first).rstrip()
        yield from (" " * len(padded) + line for line in others)
