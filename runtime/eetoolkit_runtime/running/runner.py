"""The runner: follows a bundle's plan and stops at the first confident exit."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Self, get_args

import msgspec
import numpy as np

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.bundle.bundle import load as load_bundle
from eetoolkit_runtime.bundle.integrity import Check
from eetoolkit_runtime.errors import InputError, RunError
from eetoolkit_runtime.forked import renew_after_fork
from eetoolkit_runtime.log import log
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.plan.types import Fallback
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.running.all_exits import answer_by, answer_in_time, better_and_better, visit_exits
from eetoolkit_runtime.running.answer import Answer, StoppedBy
from eetoolkit_runtime.running.deadline import Watch
from eetoolkit_runtime.running.decision import Thresholds
from eetoolkit_runtime.running.inputs import ROWS_AT_ONCE, Inputs, count_rows, prepare, split_rows
from eetoolkit_runtime.running.interrupt import Interrupt
from eetoolkit_runtime.running.opening import Load, kept_open, open_rest
from eetoolkit_runtime.running.part import Part
from eetoolkit_runtime.running.providers import Providers, choose_providers
from eetoolkit_runtime.running.sessions import Pool, Sessions, SessionSettings, Spin

if TYPE_CHECKING:
    from eetoolkit_runtime.running.handover import Handover


class Runner:
    """Runs a bundle on this machine. A context manager; safe under concurrent calls.

    Args:
        bundle: A `Bundle`, or the path of one.
        threads: Workers for each operator; None: one per physical core.
        spin: What idle workers do: spin (`always`), spin for 20 us and then sleep (`brief`), or sleep (`never`).
        pool: `own`: a pool of workers per segment; `shared`: one per process, the fastest, after which onnxruntime
            refuses sessions with default options elsewhere in this process.
        load: When segments are opened: when first reached (`lazy`), the first now and the rest on a thread
            (`background`), or all now (`eager`). `run_batch` has sessions of its own, which it opens when it reaches
            them.
        check: How the bundle's files are checked when `bundle` is a path: `quick` or `full`.
        providers: onnxruntime's execution providers, for all segments or by segment, passed on and never silently
            replaced; None: CPU. A plug-in is asked for by its name once its library is registered.
        fallback: Which exit answers when none fired: `last` or `most_confident` (SDN); None: as the bundle says.
        keep: How many segments stay open after a call, in the plan's order; what a call opens beyond them is closed
            when it ends, for devices whose memory does not hold all. None: all that were reached.
        arena: Whether segments keep the memory of their intermediate tensors for the next call.
        prepack: Whether weights are copied into the layout that is fastest to multiply with, but for segments of which
            the bundle says otherwise; False reads all from the mapped files, slower and with less memory.
        provider_fallback: Whether a segment that its providers refuse runs on the CPU, with a warning that says why.
        remote: A server that goes on where no exit of this machine answers, see `docs/remote.md`: its `url`, and
            `from`, the exit behind which a whole bundle is cut. `run`, `run_batch` and `stream` ask it; all else stays
            here.
        monitor: What counts the answers of `run`, `run_batch` and `stream`; None: nothing does.

    Attributes:
        bundle: The bundle.
        remote: The server: `remote.check()` asks whether it has the other half, `remote.last_failure` says why it gave
            no answer; None where there is none.

    Raises:
        BundleError: The bundle cannot be opened.
        RunError: A setting that this onnxruntime does not have; the monitor counts another bundle.
        InputError: A setting of `remote` that there is not, or a bundle that cannot be cut there.
    """

    @checked(RunError, but=("bundle",))  # which `load` looks at
    def __init__(  # noqa: PLR0913 - the public settings, each with a default
        self,
        bundle: str | os.PathLike[str] | Bundle,
        threads: int | None = None,
        spin: Spin = "brief",
        pool: Pool = "own",
        load: Load = "lazy",
        check: Check = "quick",
        providers: Providers | None = None,
        fallback: Fallback | None = None,
        *,
        keep: int | None = None,
        arena: bool = True,
        prepack: bool = True,
        provider_fallback: bool = False,
        remote: Mapping[str, object] | None = None,
        monitor: Monitor | None = None,
    ) -> None:
        self.bundle = load_bundle(bundle, check=check)
        plan = self._plan = self.bundle.manifest
        self._most_confident = (plan.fallback if fallback is None else fallback) == "most_confident"
        settings = SessionSettings(
            threads, spin, pool, choose_providers(providers), arena, prepack, provider_fallback=provider_fallback
        )
        log("info", "runner of %s: %s, fallback %s", plan.name, settings, fallback or plan.fallback)
        self._kept = kept_open(plan, keep, load)
        self._sessions = Sessions(self.bundle, msgspec.structs.replace(settings, one_row=True))
        self._sessions_of_rows = Sessions(self.bundle, settings)
        both = self._sessions, self._sessions_of_rows
        self._part = Part(plan, both, self._kept, most_confident=self._most_confident)
        self._workspaces = self._part.by_shape
        self._monitor = monitor
        self._as_tuned = fallback in (None, plan.fallback)
        if monitor is not None:
            monitor.attach(plan, get_args(StoppedBy))
        self.remote: Handover | None = None
        if remote is not None:
            from eetoolkit_runtime.running.handover import Handover

            self.remote = Handover(self.bundle, remote, both, self._kept, monitor, most_confident=self._most_confident)
        if load == "eager":
            self._sessions.open_all()
        elif load == "background":
            if plan.segments[plan.start].model is not None:
                _ = self._sessions[plan.start]
            threading.Thread(target=open_rest, args=(self._sessions,), name="eetoolkit-load", daemon=True).start()
        renew_after_fork(self)

    def run(
        self,
        inputs: Inputs,
        *,
        exit_at: str | None = None,
        thresholds: Thresholds | None = None,
        deadline_ms: float | None = None,
        interrupt: Interrupt | None = None,
    ) -> Answer:
        """Returns the answer of the first exit that fires, for one row.

        With a deadline or a token, returns the best answer available when time is up: the last enabled exit reached,
        or the most confident one if `fallback` says so; with `exit_at` the last exit reached. `answer.stopped_by` says
        what stopped the run. A segment that would not fit into the time left is not run. Its time is that of the
        bundle's profile, else the least that it has taken in this runner, and at least what it had when it was stopped.
        A segment that takes longer is stopped between two nodes of its graph. What is expected without a profile is
        tried again from time to time.

        Args:
            inputs: One array, a tuple in the bundle's order, or a mapping by name; leading dimension 1.
            exit_at: Always answer at this exit, whatever the confidences, on its first visit; if the row's path does
                not reach it, the last exit answers.
            thresholds: Other thresholds than the bundle's for this call, by exit; `never` disables an exit.
            deadline_ms: Milliseconds from the beginning of this call in which it must answer.
            interrupt: A token that stops this call from another thread or a signal handler. In the main thread the
                segments then run on a thread of their own, since Python could not run a handler before they end.

        Raises:
            InputError: An input, exit, threshold or deadline that the bundle does not take.
            DeadlineError: Stopped by the deadline or the token before there was an answer.
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound.
        """
        monitor = self._monitor
        if monitor is None:
            return self._run(inputs, exit_at, thresholds, deadline_ms, interrupt)
        started_s, tuned = perf_counter(), self._is_tuned(exit_at, thresholds)
        try:
            answer = self._run(inputs, exit_at, thresholds, deadline_ms, interrupt)
        except Exception as error:
            monitor.count_error(error, tuned=tuned)
            raise
        monitor.count(answer, started_s, tuned)
        return answer

    def refine(
        self, inputs: Inputs, *, deadline_ms: float | None = None, interrupt: Interrupt | None = None
    ) -> Generator[Answer, None, None]:
        """Yields the answers of one row as they get better, each as soon as its exit is reached.

        A later exit is a better one, so these are the answers of all enabled exits that the row meets, none of them
        firing; with the fallback `most_confident` those that are at least as sure as all before. The last one answers
        as `run` would where nothing fires. `stopped_by` is `end` at the end of the plan and `exit` before: where it is
        not `end` at last, the deadline or the token has cut the plan short. The caller may stop asking at any moment.

        Args:
            inputs: As `run`'s.
            deadline_ms: As `run`'s, from the beginning of this call.
            interrupt: As `run`'s.

        Raises:
            InputError: An input or deadline that the bundle does not take; at once.
            DeadlineError: Stopped by the deadline or the token before there was an answer.
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound.
        """
        watch = Watch(deadline_ms, interrupt)
        arrays, workspaces = self._part.admit(inputs)
        return better_and_better(workspaces, arrays, self._part.own, watch, interrupt)

    @checked(InputError)
    def run_batch(
        self, inputs: Inputs, *, exit_at: str | None = None, thresholds: Thresholds | None = None
    ) -> list[Answer]:
        """Returns the answer of each row, in order, as `run` gives it, up to the rounding of larger matrix products.

        Rows run together until their exits, gates or switches part them; where the plan decides once per call
        (`"batch": 1`) or passes on tensors that are not one per row, they run one by one. There is no deadline and no
        token: a row that runs with others would wait for them; give rows that must be in time to `run`.

        Args:
            inputs: As `run`'s, with any number of rows.
            exit_at: As `run`'s.
            thresholds: As `run`'s.

        Raises:
            InputError: An input, exit or threshold that the bundle does not take.
            RunError: As `run`'s.
        """
        arrays = prepare(self._plan, inputs, one_row=False)
        remote, together = self.remote, self._part.rows
        if remote is not None and remote.takes(exit_at, thresholds):
            run, count = partial(remote.run_batch, arrays, exit_at, thresholds), count_rows(self._plan, arrays)
        elif together is not None and (count := together.count(arrays)) > 1:
            run = partial(together.run, arrays, self._part.decision(exit_at, thresholds))
        else:
            rows = split_rows(self._plan, arrays)
            return [self.run(row, exit_at=exit_at, thresholds=thresholds) for row in rows]
        self._part.check_open()
        try:
            if self._monitor is None:
                return run()
            return self._monitor.run_batch(run, count, tuned=self._is_tuned(exit_at, thresholds))
        finally:
            self._part.close_rows()

    @checked(InputError)
    def stream(
        self,
        inputs: Iterable[Inputs],
        *,
        rows: int = ROWS_AT_ONCE,
        exit_at: str | None = None,
        thresholds: Thresholds | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Generator[Answer, None, None]:
        """Yields the answer of each input, in order, as `run_batch` gives it, with at most `rows` of them in memory.

        Who must stop it stops asking, between two batches.

        Args:
            inputs: Any number of rows, each as `run` takes it; rows of one shape that follow each other run together.
            rows: How many run together.
            exit_at: As `run`'s.
            thresholds: As `run`'s.
            progress: Is told after every batch how many rows have been answered.

        Raises:
            InputError: An input that the bundle does not take, when it is reached; an exit or threshold, or no `rows`.
            RunError: As `run`'s.
        """
        from eetoolkit_runtime.running.stream import gather

        if rows < 1:
            raise InputError(f"rows is {rows}, expected 1 or more")
        done, together = 0, self._part.rows is not None
        for batch in gather(self._plan, inputs, rows if together else 1):
            if together:
                answers = self.run_batch(batch, exit_at=exit_at, thresholds=thresholds)
            else:
                answers = [self.run(batch, exit_at=exit_at, thresholds=thresholds)]
            done += len(answers)
            if progress is not None:
                progress(done)
            yield from answers

    def run_all_exits(self, inputs: Inputs) -> list[Answer]:
        """Returns the answers of all exits that one row meets on its way to the end, in order, none of them firing.

        Raises:
            InputError: An input that the bundle does not take.
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound.
        """
        arrays, workspaces = self._part.admit(inputs)
        with workspaces.borrow() as workspace:
            return list(visit_exits(workspace, arrays))

    @checked(InputError)
    def trace(self, inputs: Inputs, took: Callable[[str, float], object]) -> list[tuple[str, int]]:
        """Runs one row to the end of the plan; returns each exit met, and how many segments had run by then.

        Args:
            inputs: As `run`'s.
            took: Is told of every segment that has run, with its milliseconds.

        Raises:
            InputError: An input that the bundle does not take.
            RunError: onnxruntime failed, a switch has no such case, or a loop exceeds its bound.
        """
        arrays, workspaces = self._part.admit(inputs)
        with workspaces.borrow() as workspace:
            return [(answer.exit, len(answer.path)) for answer in visit_exits(workspace, arrays, took)]

    @checked(InputError)
    def open(self, segment: str) -> None:
        """Opens a segment now.

        Raises:
            InputError: No such segment, or one without a model.
            IntegrityError: onnxruntime cannot load it.
        """
        if segment not in self._plan.segments or self._plan.segments[segment].model is None:
            raise InputError(f"no segment {segment!r} with a model; there are {', '.join(self._plan.segments)}")
        self._part.check_open()
        _ = self._sessions[segment]

    @checked(InputError)
    def warmup(self, inputs: Inputs | None = None, runs: int = 3) -> None:
        """Opens the segments on the way of `inputs` (None: the golden samples) and runs them `runs` times.

        Raises:
            InputError: No inputs, and the bundle has no golden samples.
        """
        if inputs is not None:
            rows = split_rows(self._plan, prepare(self._plan, inputs, one_row=False))
        else:
            from eetoolkit_runtime.running.inputs import golden_rows

            rows = golden_rows(self.bundle)
        if not rows:
            raise InputError("warmup: the bundle has no golden samples; pass inputs")
        for _ in range(runs):
            for row in rows:
                self.run_all_exits(row)

    @property
    def opened(self) -> tuple[str, ...]:
        """The segments that have been loaded so far, in the order of loading."""
        return tuple(dict.fromkeys((*self._sessions.opened, *self._sessions_of_rows.opened)))

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers that the loaded segments run on, in onnxruntime's order; () where none is loaded."""
        return self._sessions.providers or self._sessions_of_rows.providers

    def close(self) -> None:
        """Lets go of all sessions and buffers, of those of a running call when it ends; a later run is a `RunError`."""
        self._part.close()
        if self.remote is not None:
            self.remote.close()
        self._sessions.close()
        self._sessions_of_rows.close()

    def renew(self) -> None:
        """Begins anew in a forked process, which has none of the sessions' threads: they are opened again."""
        self._sessions.renew()
        self._sessions_of_rows.renew()
        self._part.renew()
        if self.remote is not None:
            self.remote.renew()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._part.closed else f"open: {', '.join(map(printable, self.opened)) or 'none'}"
        return f"<Runner {self.bundle}; {state}>"

    def _run(
        self,
        inputs: Inputs,
        exit_at: str | None,
        thresholds: Thresholds | None,
        deadline_ms: float | None,
        interrupt: Interrupt | None,
    ) -> Answer:
        if self.remote is not None and self.remote.takes(exit_at, thresholds):
            self._part.check_open()
            return self.remote.run(inputs, exit_at, thresholds, deadline_ms, interrupt)
        if deadline_ms is not None or interrupt is not None:
            watch = Watch(deadline_ms, interrupt)
            arrays, workspaces = self._part.admit(inputs)
            return answer_in_time(workspaces, arrays, self._part.decision(exit_at, thresholds), watch, interrupt)
        latest = self._workspaces.latest
        if type(inputs) is np.ndarray and latest is not None and latest.key == ((inputs.shape, inputs.dtype),):
            arrays, workspaces = (inputs,), latest
        else:
            arrays, workspaces = self._part.admit(inputs)
        decision = (
            self._part.own if exit_at is None and thresholds is None else self._part.decision(exit_at, thresholds)
        )
        if decision.most_confident and decision.at is None:
            return answer_by(workspaces, arrays, decision)
        return workspaces.run(arrays, decision)

    def _is_tuned(self, exit_at: str | None, thresholds: Thresholds | None) -> bool:
        """Whether a call is decided as the bundle says."""
        return self._as_tuned and exit_at is None and thresholds is None
