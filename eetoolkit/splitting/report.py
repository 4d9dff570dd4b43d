"""What `split` has written and what crosses, as a value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from eetoolkit_runtime.plan.types import DType, Shape
from eetoolkit_runtime.printable import printable, spell_size

Crossing = Literal["float32", "float16", "uint8"]


class Crosses(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor that crosses.

    Attributes:
        name: The input of the server's half.
        dtype: What crosses.
        shape: Its sizes.
        bytes: Of one row, the mean of those that were run; None where none were and no shape says it.
        float_bytes: The same before it was made smaller.
        error: The L2 norm of what is lost over that of the tensor, of rows that chose nothing; 0: it is as it was.
    """

    name: str
    dtype: DType
    shape: Shape
    bytes: int | None
    float_bytes: int | None
    error: float = 0.0


class SplitReport(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle in two halves.

    Attributes:
        device: The device's bundle.
        server: The folder with the server's half, that of the model's version.
        model: What a model server calls it.
        version: Its version there.
        exit: The exit whose answer stands in where the server gives none.
        segment: Before which the plan was cut.
        crossing: What float32 tensors cross as.
        tensors: What crosses.
        disagreement: The share of rows whose answer the smaller tensors change, of `rows`; None: none were judged.
        rows: How many rows that come to the handover judged it; none of them chose scales.
        servers: Which model servers find the model in the folder.
        left_out: Why one does not, by its name.
        notes: What is odd about the rows.
    """

    device: str
    server: str
    model: str
    version: int
    exit: str
    segment: str
    crossing: Crossing
    tensors: tuple[Crosses, ...]
    disagreement: float | None = None
    rows: int = 0
    servers: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int | None:
        """What crosses of one row; None where a tensor's size is not known."""
        return total(each.bytes for each in self.tensors)

    def __str__(self) -> str:
        return "\n".join(printable(line) for line in lines(self))


def total(sizes: Iterable[int | None]) -> int | None:
    """Returns the sum, None where one is not known."""
    found = list(sizes)
    return None if None in found else sum(size for size in found if size is not None)


def lines(report: SplitReport) -> Iterator[str]:
    """Yields what was written and what crosses, for people."""
    size = "an unknown size" if report.bytes is None else spell_size(report.bytes)
    yield f"device: {report.device}, which hands over before {report.segment}; {report.exit} stands in"
    yield f"server: {report.server}, model {report.model}, version {report.version}, for {', '.join(report.servers)}"
    for name, reason in report.left_out.items():
        yield f"not for {name}: {reason}"
    yield f"a row sends {size} as {report.crossing}:"
    for each in report.tensors:
        shape = ", ".join("?" if dim is None else str(dim) for dim in each.shape)
        own = "" if each.bytes is None else f", {spell_size(each.bytes)}"
        lost = f", {each.error:.1e} of it lost" if each.error else ""
        yield f"  {each.name}: {each.dtype}[{shape}]{own}{lost}"
    if report.disagreement is not None:
        yield f"{report.disagreement:.2%} of {report.rows} rows get another answer than with float32"
    yield from report.notes
