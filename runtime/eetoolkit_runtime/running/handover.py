"""Runs that go on at a server: this machine's half of a plan, then the server's answer, or what stands in for it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Literal, NamedTuple

import msgspec

from eetoolkit_runtime.arrays import Array
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import DeadlineError, InputError, RemoteError, RunError
from eetoolkit_runtime.monitoring.monitor import Monitor
from eetoolkit_runtime.plan.names import plan_name
from eetoolkit_runtime.remote.link import Link, Wait
from eetoolkit_runtime.remote.protocol import Request
from eetoolkit_runtime.remote.reply import Told
from eetoolkit_runtime.remote.settings import parse
from eetoolkit_runtime.running.all_exits import answer_by, answer_in_time, visit_exits
from eetoolkit_runtime.running.answer import Answer, rank, stand_in
from eetoolkit_runtime.running.cut_here import check_fallback, halves_for
from eetoolkit_runtime.running.deadline import Watch
from eetoolkit_runtime.running.decision import Decision, Thresholds
from eetoolkit_runtime.running.inputs import Inputs, split_rows
from eetoolkit_runtime.running.interrupt import Interrupt, apart
from eetoolkit_runtime.running.part import Part
from eetoolkit_runtime.running.sessions import Sessions
from eetoolkit_runtime.running.workspaces import Workspaces

_AT_ONCE = 8  # requests of a batch that wait at the same time
_TRY_AFTER = 16  # rows that went on here since the server was thought to take longer, until it is asked again
_RESERVE = 1.25  # times what the rest is expected to take here is kept back of a deadline for it
_WEIGHT = 0.2


class _Reached(NamedTuple):
    """What this machine's half gave: an answer, or the handover's with the best exit's before it."""

    answer: Answer
    best: Answer | None


class Handover:
    """Runs the device's half of a plan, and goes on at a server with the rows that none of its exits answers.

    Args:
        bundle: Whole, or a device's half.
        given: The settings, see `remote.settings`.
        sessions: Of the bundle, for one row; and for several.
        kept: The segments that stay open after a call; None: all.
        monitor: What counts the server's answers; None: nothing does.
        most_confident: Whether the most confident exit answers where none fired, else the last.

    Attributes:
        answered: How many rows the server answered.
        unanswered: How many rows went on without an answer of the server that should have had one: it failed, was too
            late, or rests after failures.

    Raises:
        InputError: Settings that there are not, or a bundle that cannot be cut there.
        RemoteError: The client for gRPC is not installed.
    """

    def __init__(
        self,
        bundle: Bundle,
        given: Mapping[str, object],
        sessions: tuple[Sessions, Sessions],
        kept: frozenset[str] | None,
        monitor: Monitor | None = None,
        *,
        most_confident: bool,
    ) -> None:
        settings = self.settings = parse(given)
        device, server, split = halves_for(bundle.manifest, settings)
        check_fallback(bundle.manifest, settings, split, most_confident=most_confident)
        self.split = split
        self.link = Link(settings, split.version, split.exits)
        part = partial(Part, sessions=sessions, kept=kept, most_confident=most_confident, segments=split.segments)
        self._device = part(device)
        self._tail = None if server is None else part(server)
        self._most_confident = most_confident
        self._tail_ms: float | None = None
        self._skipped = 0
        self._monitor = monitor
        self.answered = self.unanswered = 0
        self._lock = threading.Lock()
        if server is not None:
            known = {} if server.profile is None else server.profile.expected_ms
            costs = [known.get(name) for name, segment in server.segments.items() if segment.model is not None]
            self._tail_ms = None if None in costs else math.fsum(cost for cost in costs if cost is not None)

    def check(self) -> None:
        """Asks the server whether it has the other half of this bundle, ready to answer.

        Raises:
            RemoteError: It has not, it cannot be asked, or what answers does not speak the protocol.
        """
        plan = self._device.plan
        outputs = plan.exits[self.split.exit].outputs
        dtypes = {spec.name: spec.dtype for spec in plan.inputs} | {k: slot.dtype for k, slot in plan.slots.items()}
        self.link.check({name: dtypes[outputs[output]] for name, output in self.split.sends.items()})

    @property
    def last_failure(self) -> RemoteError | None:
        """Why the server gave no answer when it was last asked; None where it gave one, or was not asked yet."""
        return self.link.last_failure

    def takes(self, exit_at: str | None, thresholds: Thresholds | None) -> bool:
        """Whether a call runs as two halves; a whole bundle runs one that asks for exits of the server's half here.

        Raises:
            InputError: A device's half cannot run it.
        """
        if exit_at is None and thresholds is None:
            return True
        plan = self._device.plan
        named = [] if exit_at is None else [exit_at]
        named += [*thresholds] if isinstance(thresholds, Mapping) else []
        names = [plan_name(name, plan.titles) if isinstance(name, str) else name for name in named]
        if self._tail is not None:
            return exit_at is None and all(name in plan.exits and name != self.split.exit for name in names)
        behind = {exit_.name for exit_ in self.split.exits} - plan.exits.keys() | {self.split.exit}
        for name in names:
            if name in behind:
                raise InputError(
                    f"exit {name!r} is not on this machine: behind {self.split.local!r} the server decides, by "
                    f"thresholds of its own; there are {', '.join(each for each in plan.exits if each not in behind)}"
                )
        return True

    def run(
        self,
        inputs: Inputs,
        exit_at: str | None = None,
        thresholds: Thresholds | None = None,
        deadline_ms: float | None = None,
        interrupt: Interrupt | None = None,
    ) -> Answer:
        """Returns the answer of one row, as `Runner.run` says."""
        end, watch = math.inf, None
        if deadline_ms is not None or interrupt is not None:
            started, watch = time.perf_counter(), Watch(deadline_ms, interrupt)
            end = math.inf if deadline_ms is None else started + float(deadline_ms) / 1e3
        arrays, workspaces = self._device.admit(inputs)
        decision = self._device.decision(exit_at, thresholds)
        found = self._here(arrays, workspaces, decision, watch, interrupt)
        if found.answer.exit != self.split.exit:
            return found.answer
        return self._go_on(found, decision, end, interrupt)

    def run_batch(self, arrays: tuple[Array, ...], exit_at: str | None, thresholds: Thresholds | None) -> list[Answer]:
        """Returns the answer of each row, as `Runner.run_batch` says; several wait for the server at the same time."""
        rows, decision = self._device.rows, self._device.decision(exit_at, thresholds)
        if rows is None or decision.most_confident:
            return [self.run(row, exit_at, thresholds) for row in split_rows(self._device.plan, arrays)]
        try:
            answers = rows.run(arrays, decision)
        finally:
            self._device.close_rows()
        places = [place for place, answer in enumerate(answers) if answer.exit == self.split.exit]
        if places:
            with ThreadPoolExecutor(min(_AT_ONCE, len(places)), "eetoolkit-rows") as pool:
                reached = [_Reached(answers[place], None) for place in places]
                later = [pool.submit(self._go_on, each, decision, math.inf, None) for each in reached]
                try:
                    for place, one in zip(places, later, strict=True):
                        answers[place] = one.result()
                except BaseException:  # of a batch that fails, or is stopped by Ctrl-C, no further row is sent
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        return answers

    def hand_over(self, inputs: Inputs) -> dict[str, Array]:
        """Returns what a row sends, whatever its exits say; for measuring a link."""
        arrays, workspaces = self._device.admit(inputs)
        answer = workspaces.run(arrays, self._device.decision(self.split.exit, None))
        return self._sent(answer)

    def close(self) -> None:
        """Lets go of connections and buffers."""
        self.link.close()
        for part in (self._device, self._tail):
            if part is not None:
                part.close()

    def renew(self) -> None:
        """Begins anew in a forked process."""
        self._lock = threading.Lock()
        self.answered = self.unanswered = 0
        self.link.renew()
        for part in (self._device, self._tail):
            if part is not None:
                part.renew()

    def _here(
        self,
        arrays: tuple[Array, ...],
        workspaces: Workspaces,
        decision: Decision,
        watch: Watch | None,
        interrupt: Interrupt | None,
    ) -> _Reached:
        """Runs this machine's half."""
        if watch is None and not decision.most_confident:
            return _Reached(workspaces.run(arrays, decision), None)

        def look() -> _Reached:
            best: Answer | None = None
            with workspaces.borrow(watch) as workspace, closing(visit_exits(workspace, arrays)) as answers:
                for answer in answers:
                    if answer.exit == self.split.exit:
                        return _Reached(answer, best)
                    if decision.fires(decision.exits.index(answer.exit), answer.confidence):
                        return _Reached(answer, None)
                    if decision.better(answer, best):
                        best = answer
                gates = workspace.gates
            if watch is None or not watch.cut:
                raise RunError("the plan ended without an exit")
            if best is None:
                raise watch.error()
            cut = msgspec.structs.replace(best, path=tuple(watch.path), gates=gates, stopped_by=watch.stopped_by)
            return _Reached(cut, None)

        if watch is None:
            return look()
        with watch:
            return look() if interrupt is None else apart(look, watch.interrupt)

    def _go_on(self, found: _Reached, decision: Decision, end: float, interrupt: Interrupt | None) -> Answer:
        """Returns the answer of a row that was handed over: the server's, or what stands in for it."""
        late = self._late(end, interrupt)
        until = self._until(end)
        if late is None and (decision.at is None or self._tail is not None) and self._asks(until):
            try:
                told = self._ask(found.answer, until, interrupt)
            except RemoteError:
                late = self._late(end, interrupt)  # the link keeps the reason, and has logged it
                if late != "interrupt":
                    self._count(answered=False)
            else:
                self._count(answered=True)
                answer = self._better(found, self._joined(found.answer, told))
                if answer.remote and self._monitor is not None:
                    self._monitor.count_remote()
                return answer
        if self._tail is None or late is not None:
            return self._instead(found, decision, late or "remote", found.answer)
        return self._locally(self._tail, found, decision, end, interrupt)

    def _until(self, end: float) -> float:
        """Returns how long the server may take, on the clock of `time.perf_counter`.

        With a deadline that is all the time that is left, but for what this machine needs to go on by itself where that
        fits.
        """
        now = time.perf_counter()
        if end == math.inf:
            return now + self.settings.timeout_ms / 1e3
        reserve_s = 0.0 if self._tail is None else _RESERVE * (self._tail_ms or 0.0) / 1e3
        return end - reserve_s if end - reserve_s > now else end

    def _asks(self, until: float) -> bool:
        """Whether the server is asked for the next row, which has until then to be answered."""
        if self.settings.policy == "local":
            return False
        if not self.link.may_ask():
            self._count(answered=False)
            return False
        there, here = self.link.took_ms, self._tail_ms
        if there is None or self._tail is None:
            return True
        in_time = there <= (until - time.perf_counter()) * 1e3
        if in_time and (self.settings.policy == "remote" or (here is not None and there <= here)):
            return True
        self._skipped += 1
        if self._skipped < _TRY_AFTER:
            return False
        self._skipped = 0
        return True

    def _count(self, *, answered: bool) -> None:
        """Counts a row that went on."""
        with self._lock:
            if answered:
                self.answered += 1
            else:
                self.unanswered += 1

    def _ask(self, answer: Answer, until: float, interrupt: Interrupt | None) -> Told:
        """Returns what the server says, or raises what keeps it from that."""
        request = Request(self._sent(answer))
        if interrupt is None:
            return self.link.ask(request, until)
        wait = Wait()
        interrupt.add(wait.stop)
        try:
            return self.link.ask(request, until, wait)
        finally:
            interrupt.discard(wait.stop)

    def _sent(self, answer: Answer) -> dict[str, Array]:
        return {name: answer.outputs[output] for name, output in self.split.sends.items()}

    def _joined(self, local: Answer, told: Told) -> Answer:
        return Answer(
            told.outputs,
            told.exit.name,
            told.confidence,
            (*local.path, *told.path),
            self.split.segments,
            (*local.gates, *told.gates),
            told.stopped_by,
            told.exit.scores,
            remote=True,
        )

    def _better(self, found: _Reached, behind: Answer) -> Answer:
        """Returns the answer of what lies behind, unless none of it fired and an exit before was surer."""
        best = found.best
        if not self._most_confident or behind.stopped_by == "exit" or best is None or rank(behind) >= rank(best):
            return behind
        return stand_in(best, behind)

    def _locally(
        self, tail: Part, found: _Reached, decision: Decision, end: float, interrupt: Interrupt | None
    ) -> Answer:
        """Goes on from the live slots on this machine, with what the whole bundle has."""
        sent = self._sent(found.answer)
        arrays = tuple([sent[spec.name] for spec in tail.plan.inputs])
        workspaces, started = tail.workspaces(arrays), time.perf_counter()
        if end == math.inf and interrupt is None:
            sure = self._most_confident
            behind = answer_by(workspaces, arrays, tail.own) if sure else workspaces.run(arrays, tail.own)
        else:
            left_ms = None if end == math.inf else max((end - started) * 1e3, 1e-6)
            watch = Watch(left_ms, interrupt)
            try:
                behind = answer_in_time(workspaces, arrays, tail.own, watch, interrupt)
            except DeadlineError:
                path = (*found.answer.path, *watch.path)
                ran = msgspec.structs.replace(found.answer, path=path)
                return self._instead(found, decision, watch.stopped_by or "deadline", ran)
        took_ms, known = (time.perf_counter() - started) * 1e3, self._tail_ms
        self._tail_ms = took_ms if known is None else known + _WEIGHT * (took_ms - known)
        path, gates = (*found.answer.path, *behind.path), (*found.answer.gates, *behind.gates)
        return self._better(found, msgspec.structs.replace(behind, path=path, gates=gates))

    def _instead(
        self,
        found: _Reached,
        decision: Decision,
        stopped_by: Literal["deadline", "interrupt", "remote"],
        ran: Answer,
    ) -> Answer:
        """Returns the answer of this machine's last exit, or of its most confident one.

        Raises:
            DeadlineError: It must not answer, and what lies behind did not in time.
        """
        if found.best is not None:
            return msgspec.structs.replace(found.best, path=ran.path, gates=ran.gates, stopped_by=stopped_by)
        split = self.split
        if stopped_by != "remote" and split.local not in decision.stand_ins:
            raise DeadlineError(f"no answer in time; ran {', '.join(ran.path)}, no exit of which may answer")
        handed = found.answer
        outputs = {name: handed.outputs[name] for name in split.answers}
        exit_ = self._device.plan.exits[split.local]
        return Answer(
            outputs, split.local, handed.confidence, ran.path, split.segments, ran.gates, stopped_by, exit_.scores
        )

    @staticmethod
    def _late(end: float, interrupt: Interrupt | None) -> Literal["deadline", "interrupt"] | None:
        """Why a call must end now; None where it need not."""
        if interrupt is not None and interrupt.is_set():
            return "interrupt"
        return "deadline" if time.perf_counter() >= end else None
