"""An answerer: batches of columns in, the same with answers out, for engines that send functions to workers."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from eetoolkit.cluster.columns import input_columns, rows_of
from eetoolkit_runtime.arguments import checked, shortened
from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle, load, load_again
from eetoolkit_runtime.errors import BundleError, InputError
from eetoolkit_runtime.files.paths import absolute
from eetoolkit_runtime.plan.manifest import encode
from eetoolkit_runtime.plan.seal import sha256_of
from eetoolkit_runtime.plan.types import Manifest
from eetoolkit_runtime.running.answer import Answer
from eetoolkit_runtime.running.decision import Thresholds, decide
from eetoolkit_runtime.running.providers import Chosen, Providers, choose_providers
from eetoolkit_runtime.running.runner import Runner
from eetoolkit_runtime.running.scores import LABEL

if TYPE_CHECKING:
    import pandas as pd

NO_CLASS = -1
"""The prediction of an answer that names no class."""
_MOST_RUNNERS = 4  # of a process; the least used goes first


@dataclass(frozen=True)
class Answerer:
    """Answers batches: what `answerer` returns, which says how. Equal ones share a runner in each process.

    Attributes:
        path: Where every worker finds the bundle.
        digest: Of its manifest, which holds those of all its files.
        threads: As the `Runner`'s.
        thresholds: As `Runner.run`'s, as pairs.
        exit_at: As `Runner.run`'s.
        outputs: Which of the exits' outputs become columns; None: all.
        columns: The columns of inputs that are called otherwise, as pairs.
        keep_inputs: Whether the inputs' columns stay.
        together: Whether a batch's rows run together.
        providers: As the `Runner`'s.
    """

    path: str
    digest: str
    threads: int | None
    thresholds: tuple[tuple[str, float | str], ...] | None
    exit_at: str | None
    outputs: tuple[str, ...] | None
    columns: tuple[tuple[str, str], ...]
    keep_inputs: bool
    together: bool
    providers: Chosen

    def __call__(self, batch: Any) -> Any:
        """Returns a batch with its answers: a dict of arrays, a pandas DataFrame, or an iterator of DataFrames.

        Raises:
            InputError: A batch that is none of these, or whose columns the bundle does not take.
            BundleError: The bundle is not where it was, or is another one.
            RunError: As `Runner.run`.
        """
        if isinstance(batch, Mapping):
            return self._with_answers(batch)
        if hasattr(batch, "iloc") and hasattr(batch, "columns"):
            return self._frame(batch)
        if isinstance(batch, Iterator):
            return (self._frame(frame) for frame in batch)
        raise InputError(
            f"a batch is {shortened(batch)}, expected a dict of arrays, a DataFrame of pandas or an iterator of them"
        )

    def _frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        import pandas as pd

        columns: dict[str, Any] = {str(name): frame[name] for name in frame.columns}
        found = self._with_answers({name: column.to_numpy() for name, column in columns.items()})
        cells = {
            name: columns[name] if name in columns else _cells(array, frame.index) for name, array in found.items()
        }
        return pd.DataFrame(cells, index=frame.index)

    def _with_answers(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        runner = self._runner()
        plan = runner.bundle.manifest
        names = input_columns(plan, batch.keys(), dict(self.columns))
        count = len(next(iter(batch.values())))
        answers = self._answers(runner, rows_of(plan, batch, names)) if count else []
        new = _columns(plan, answers, self.outputs)
        kept = {name: column for name, column in batch.items() if self.keep_inputs or name not in names.values()}
        if taken := [name for name in new if name in kept]:
            raise InputError(f"the batch has a column {taken[0]!r} already, as the answers do; rename or drop it")
        return {**kept, **new}

    def _answers(self, runner: Runner, rows: list[tuple[Array, ...]]) -> list[Answer]:
        thresholds = cast("Thresholds | None", None if self.thresholds is None else dict(self.thresholds))
        if self.together:
            return list(runner.stream(rows, exit_at=self.exit_at, thresholds=thresholds))
        return [runner.run(row, exit_at=self.exit_at, thresholds=thresholds) for row in rows]

    def _runner(self) -> Runner:
        """Returns this process's runner, opened when the first batch comes."""
        key = self.path, self.digest, self.threads, repr(self.providers)
        with _LOCK:
            if key not in _RUNNERS:
                _RUNNERS[key] = Runner(self._bundle(), threads=self.threads, providers=self.providers)
            _RUNNERS.move_to_end(key)
            if len(_RUNNERS) > _MOST_RUNNERS:
                _RUNNERS.popitem(last=False)
            return _RUNNERS[key]

    def _bundle(self) -> Bundle:
        try:
            found = load(self.path)
        except BundleError as error:
            raise BundleError(
                f"no bundle for this worker: {error}; put it there on every machine, or in a folder that all share"
            ) from error
        if _digest(found.manifest) != self.digest:
            raise BundleError(
                f"{self.path} holds another bundle than the one that was sent here, {found.manifest.name!r}; copy the "
                "same one to every machine, and make the answerer anew after tuning"
            )
        return found


_RUNNERS: OrderedDict[tuple[str, str, int | None, str], Runner] = OrderedDict()
_LOCK = threading.RLock()


@checked(InputError, but=("bundle",))
def answerer(  # noqa: PLR0913 - the public settings, each with a default
    bundle: str | os.PathLike[str] | Bundle,
    *,
    threads: int | None = 1,
    thresholds: Thresholds | None = None,
    exit_at: str | None = None,
    outputs: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    keep_inputs: bool = False,
    together: bool = False,
    providers: Providers | None = None,
) -> Callable[[Any], Any]:
    """Returns a small function that answers batches of rows, for Ray's `map_batches`, Dask's `map_partitions` or Spark.

    It takes a dict of arrays (rows, ...), a pandas DataFrame whose cells may be arrays or lists, or an iterator of such
    DataFrames, as Spark's `mapInPandas` gives it, and returns the same kind: the columns that came in, without the
    inputs, and beside them `exit`, `confidence` (float32), where an exit names classes `prediction` (int64, -1 for
    none), and the exits' outputs by their names, of which those that not every answer has are None in places.

    It can be pickled: it holds the bundle's path and digest. Every process that calls it opens one runner, and refuses
    another bundle at that path.

    Args:
        bundle: A `Bundle` or its path, which must hold the same bundle on every machine.
        threads: As the `Runner`'s, in each process.
        thresholds: As `Runner.run`'s.
        exit_at: As `Runner.run`'s.
        outputs: Which of the exits' outputs become columns; None: all.
        columns: The column of each input that is called otherwise, by the input's name. Not needed where the network
            has one input and the batch one column beside `labels` or `label`.
        keep_inputs: Whether the inputs' columns stay.
        together: Whether rows run together, as `Runner.run_batch` does it: faster, and equal up to the rounding of
            larger matrix products. Otherwise each row is answered as by `Runner.run`, bit for bit, whatever batch it is
            in.
        providers: As the `Runner`'s.

    Raises:
        BundleError: The bundle cannot be opened.
        InputError: An exit, threshold, output or input that it does not have.
    """
    opened = load_again(bundle, check="quick")
    plan = opened.manifest
    decide(plan.exits, thresholds, exit_at, plan.titles, most_confident=False)
    known = _outputs_of(plan)
    if outputs is not None and (strange := [name for name in outputs if name not in known]):
        raise InputError(f"outputs names {strange[0]!r}; the exits' outputs are {', '.join(known)}")
    titles = [plan.titles.get(spec.name, spec.name) for spec in plan.inputs]
    input_columns(plan, [*titles, *(columns or {}).values()], columns)
    return Answerer(
        path=str(absolute(opened.archive or opened.path, BundleError)),
        digest=_digest(plan),
        threads=threads,
        thresholds=None if thresholds is None else tuple(thresholds.items()),
        exit_at=exit_at,
        outputs=None if outputs is None else tuple(outputs),
        columns=tuple((columns or {}).items()),
        keep_inputs=keep_inputs,
        together=together,
        providers=choose_providers(providers),
    )


def _digest(plan: Manifest) -> str:
    return sha256_of(encode(plan))


def _outputs_of(plan: Manifest) -> list[str]:
    return list(dict.fromkeys(name for exit_ in plan.exits.values() for name in exit_.outputs))


def _columns(plan: Manifest, answers: Sequence[Answer], wanted: Sequence[str] | None) -> dict[str, Array]:
    """Returns the answers' columns."""
    found: dict[str, Array] = {
        "exit": np.array([answer.exit for answer in answers], str),
        "confidence": np.array([answer.confidence for answer in answers], np.float32),
    }
    if any(exit_.scores is not None or LABEL in exit_.outputs for exit_ in plan.exits.values()):
        classes = [answer.prediction for answer in answers]
        found["prediction"] = np.array([NO_CLASS if each is None else each for each in classes], np.int64)
    for name in _outputs_of(plan) if wanted is None else wanted:
        rows = [_row(answer.outputs.get(name)) for answer in answers]
        found[name] = _stacked(rows) if rows else _none(plan, name)
    return found


def _none(plan: Manifest, name: str) -> Array:
    """Returns an output's column of no rows, by which engines learn what to expect."""
    slot = next(plan.slots[exit_.outputs[name]] for exit_ in plan.exits.values() if name in exit_.outputs)
    return np.zeros((0, *(dim if isinstance(dim, int) else 0 for dim in slot.shape[1:])), slot.dtype)


def _row(output: Array | None) -> Array | None:
    """Returns one row's output without the dimension that counts rows, where it is the first."""
    return output[0] if output is not None and output.ndim and len(output) == 1 else output


def _stacked(rows: list[Array | None]) -> Array:
    """Returns one array where all rows have one of the same shape, else an array of arrays and None."""
    kinds = {None if row is None else (row.shape, row.dtype) for row in rows}
    if len(kinds) == 1 and None not in kinds:
        return np.stack([row for row in rows if row is not None])
    return _objects(rows)


def _objects(values: Sequence[Any]) -> Array:
    """Returns an array of objects, which may be arrays."""
    found: Array = np.empty(len(values), object)
    for place, value in enumerate(values):
        found[place] = value
    return found


def _cells(column: Any, index: Any) -> pd.Series[Any]:
    """Returns a column as pandas holds it: numbers or texts, or for each row a flat array, or lists in lists."""
    import pandas as pd

    if column.dtype.kind == "U":
        return pd.Series(column.tolist(), index=index, dtype=str)
    if column.ndim == 1 and column.dtype != object:
        return pd.Series(column, index=index)
    cells = [cell if np.ndim(cell) <= 1 else np.asarray(cell).tolist() for cell in column]
    return pd.Series(_objects(cells), index=index)
