"""A machine as slow as one likes, on a clock that only its work moves on: no test waits for it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import onnxruntime as ort
import pytest

from eetoolkit_runtime.profiling import exit_costs
from eetoolkit_runtime.running import executor
from eetoolkit_runtime.running.sessions import SessionSettings


@dataclass
class SlowMachine:
    """A clock, and what moves it on: opening a session, and running one.

    Attributes:
        open_s: What opening takes.
        run_s: What a run takes.
        now_s: What the clock shows.
        opened: How many sessions were opened.
        runs: How many runs there were.
    """

    open_s: float
    run_s: float
    now_s: float = 1000.0
    opened: int = 0
    runs: int = 0

    def take_over(self, patch: pytest.MonkeyPatch) -> None:
        """Has this process's work take the time that it takes here."""
        open_, run, bound = SessionSettings.open, ort.InferenceSession.run, ort.InferenceSession.run_with_iobinding

        def slow_open(*arguments: Any, **named: Any) -> Any:
            self.now_s += self.open_s
            self.opened += 1
            return open_(*arguments, **named)

        def slow(work: Any) -> Any:
            def do(*arguments: Any, **named: Any) -> Any:
                self.now_s += self.run_s
                self.runs += 1
                return work(*arguments, **named)

            return do

        patch.setattr(SessionSettings, "open", slow_open)
        patch.setattr(ort.InferenceSession, "run", slow(run))
        patch.setattr(ort.InferenceSession, "run_with_iobinding", slow(bound))
        for module in (executor, exit_costs):
            patch.setattr(module, "fast_run", lambda session, binding: (session.run_with_iobinding, binding))
        patch.setattr(time, "perf_counter", self._tick)
        patch.setattr(time, "perf_counter_ns", lambda: int(self._tick() * 1e9))

    def _tick(self) -> float:
        self.now_s += 1e-6  # so that everything takes some time
        return self.now_s
