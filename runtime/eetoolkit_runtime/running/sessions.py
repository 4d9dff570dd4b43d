"""onnxruntime sessions: one per segment, opened lazily, with thread settings that do not fight each other.

onnxruntime's default gives every session its own pool of workers that spin while idle, so the workers of the segments
just run take the cores from the one that runs now (`benchmarks/README.md` has the ratios). `spin` and `pool` are the
two ways out.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import onnxruntime as ort

from eetoolkit_runtime.arguments import is_whole, shortened
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import BundleError, EEToolkitError, IntegrityError, ProviderError, RunError, first_line
from eetoolkit_runtime.forked import keep_for_ever, renew_after_fork
from eetoolkit_runtime.log import log
from eetoolkit_runtime.plan.types import Segment
from eetoolkit_runtime.running.executor import OnnxExecutor
from eetoolkit_runtime.running.inputs import BATCH
from eetoolkit_runtime.running.providers import (
    CPU,
    Chosen,
    check_available,
    check_segments,
    of_segment,
    session_on,
    together,
)
from eetoolkit_runtime.running.release import VERSION, is_new_enough

if TYPE_CHECKING:
    from pathlib import Path

Spin = Literal["always", "brief", "never"]
Pool = Literal["own", "shared"]

_BRIEF_SPIN_US = 20
_NO_PREPACKING = "session.disable_prepacking"
_SPIN_DURATION_SINCE = (1, 26)  # the first release that reads session.intra_op.spin_duration_us


class _SharedPool:
    """The pool that onnxruntime has once for a process.

    Attributes:
        threads: How many it has, 0 for all; None: there is none.
        lost: Whether it is that of the process from which this one was forked, without its threads.
    """

    def __init__(self) -> None:
        self.threads: int | None = None
        self.lost = False
        self._lock = threading.Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        """Begins anew in a forked process."""
        self._lock = threading.Lock()
        self.lost = self.threads is not None

    def make(self, threads: int | None) -> None:
        """Makes it, if there is none.

        Raises:
            RunError: There is one of another size.
        """
        with self._lock:
            wanted = threads or 0
            if self.threads is None:
                ort.set_global_thread_pool_sizes(wanted, 1)
                self.threads = wanted
                log("info", "made the pool of this process: %s threads", wanted or "all")
            elif self.threads != wanted:
                raise RunError(
                    f"pool='shared' has {self.threads or 'all'} threads in this process already, asked for "
                    f"{wanted or 'all'}: onnxruntime sets it once"
                )


_shared_pool = _SharedPool()


MOST_THREADS = 1024
"""More are a mistake on any machine that there is; onnxruntime would start them."""


class SessionSettings(msgspec.Struct, frozen=True):
    """How sessions are made.

    Attributes:
        threads: Workers for each operator; None: one per physical core, onnxruntime's own default.
        spin: What idle workers do: spin (`always`), spin for about 20 us and then sleep (`brief`), sleep (`never`).
        pool: `own`: a pool per session. `shared`: one pool per process, the fastest; but onnxruntime then refuses every
            session in the process that is made with default options, so it is never the default.
        providers: Passed to onnxruntime as they are, for all segments or by segment, never replaced silently.
        arena: Whether each session keeps the memory of its intermediate tensors for the next run.
        prepack: Whether weights are copied into the layout that is fastest to multiply with, but for segments of which
            the bundle says otherwise, or read as they are.
        one_row: Whether the dimension `batch` is 1 in every run: onnxruntime then works out while loading what would
            else be computed of it again and again.
        provider_fallback: Whether a segment that its providers refuse runs on the CPU, with a warning.
    """

    threads: int | None = None
    spin: Spin = "brief"
    pool: Pool = "own"
    providers: Chosen = (CPU,)
    arena: bool = True
    prepack: bool = True
    one_row: bool = False
    provider_fallback: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that onnxruntime would misread."""
        threads = self.threads
        if threads is not None and not (is_whole(threads) and 1 <= threads <= MOST_THREADS):
            raise RunError(f"threads is {shortened(threads)}, expected 1 to {MOST_THREADS}, or None for one per core")
        if self.spin not in ("always", "brief", "never"):
            raise RunError(f"spin is {shortened(self.spin)}, expected 'always', 'brief' or 'never'")
        if self.pool not in ("own", "shared"):
            raise RunError(f"pool is {shortened(self.pool)}, expected 'own' or 'shared'")
        for asked in self.providers.values() if isinstance(self.providers, dict) else (self.providers,):
            check_available(asked)

    def options(self) -> ort.SessionOptions:
        """Returns fresh session options."""
        options = ort.SessionOptions()
        options.log_severity_level = 4  # errors are raised; its log would print names of strangers as they are
        options.enable_cpu_mem_arena = self.arena
        if not self.prepack:
            options.add_session_config_entry(_NO_PREPACKING, "1")
        if self.one_row:
            options.add_free_dimension_override_by_name(BATCH, 1)
        if _shared_pool.lost:
            raise RunError(
                "this process was forked from one with pool='shared', whose threads it does not have: fork before the "
                "first such runner (gunicorn: no --preload), or use pool='own'"
            )
        if self.pool == "shared":
            _shared_pool.make(self.threads)
            options.use_per_session_threads = False
            return options
        if _shared_pool.threads is not None:
            raise RunError(
                "this process has a shared pool, beside which onnxruntime allows no other: "
                "pass pool='shared' (--pool shared)"
            )
        if self.threads is not None:
            options.intra_op_num_threads = int(self.threads)
        options.inter_op_num_threads = 1
        if self.spin == "never":
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        elif self.spin == "brief":
            if VERSION >= _SPIN_DURATION_SINCE:
                options.add_session_config_entry("session.intra_op.spin_duration_us", str(_BRIEF_SPIN_US))
            else:
                options.add_session_config_entry("session.force_spinning_stop", "1")
        return options

    def open(
        self,
        model: str | bytes,
        what: str,
        *,
        folder: Path | None = None,
        told: str = "it",
        segment: str = "",
        adjust: Callable[[ort.SessionOptions], object] | None = None,
    ) -> ort.InferenceSession:
        """Returns a session over a graph; `what` names it in errors.

        Args:
            model: Its path, or the graph itself.
            what: Names it in errors.
            folder: Where the weights of a graph that is given itself are.
            told: What such a graph is called in errors.
            segment: Whose providers it is to run on.
            adjust: Changes the session's options.

        Raises:
            IntegrityError: onnxruntime cannot load it.
            ProviderError: It would run it on other providers than asked for, or these refuse it.
        """
        if folder is not None and any("\ud800" <= character <= "\udfff" for character in str(folder)):
            raise IntegrityError(f"{what}: onnxruntime opens no path that is not UTF-8; rename {folder}")

        def options() -> ort.SessionOptions:
            fresh = self.options()
            if folder is not None:
                fresh.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
            if adjust is not None:
                adjust(fresh)
            return fresh

        try:
            try:
                return session_on(of_segment(self.providers, segment), model, options, what)
            except ProviderError as error:
                if not self.provider_fallback:
                    raise
                warnings.warn(f"{error}; it runs on the CPU", RuntimeWarning, stacklevel=3)
                return session_on((CPU,), model, options, what)
        except EEToolkitError:
            raise
        except Exception as error:
            name = told if isinstance(model, bytes) else model
            raise IntegrityError(
                f"{what}: onnxruntime {ort.__version__} cannot load {name}: {first_line(error)}"
            ) from error

    def open_segment(
        self,
        bundle: Bundle,
        name: str,
        adjust: Callable[[ort.SessionOptions], object] | None = None,
        graph: bytes | None = None,
    ) -> ort.InferenceSession:
        """Returns a session over a segment's graph, run from the very bytes that were found to be the bundle's.

        Raises:
            IntegrityError: They are others, or onnxruntime cannot load them.
            ProviderError: The segment's providers refuse it.
        """
        segment = bundle.manifest.segments[name]

        def change(options: ort.SessionOptions) -> None:
            if self.one_row and self.prepack and not segment.prepack:
                options.add_session_config_entry(_NO_PREPACKING, "1")
            if adjust is not None:
                adjust(options)

        graph, told = _graph(bundle, name) if graph is None else graph, str(bundle.path / str(segment.model))
        return self.open(graph, f"segment {name!r}", folder=bundle.path, told=told, segment=name, adjust=change)


def _graph(bundle: Bundle, name: str) -> bytes:
    try:
        return bundle.graph(bundle.manifest.segments[name])
    except IntegrityError as error:
        raise IntegrityError(f"segment {name!r}: {error}") from error


class Sessions:
    """The sessions of a bundle, opened when they are first asked for; safe under concurrent calls.

    Raises:
        BundleError: This onnxruntime is too old for the bundle.
        ProviderError: Providers are asked for by segment, for one that the bundle has not.
    """

    def __init__(self, bundle: Bundle, settings: SessionSettings) -> None:
        if not is_new_enough(needed := bundle.manifest.onnxruntime):
            raise BundleError(
                f"{bundle.place} needs onnxruntime {needed} or newer, {ort.__version__} is installed: "
                f"pip install --upgrade 'onnxruntime>={needed}'"
            )
        check_segments(
            settings.providers,
            [name for name, segment in bundle.manifest.segments.items() if segment.model is not None],
        )
        self._bundle = bundle
        self._settings = settings
        self._sessions: dict[str, OnnxExecutor] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._forked = False

    def __getitem__(self, name: str) -> OnnxExecutor:
        """Returns what runs the segment `name`, opening its session if need be."""
        session = self._sessions.get(name)
        if session is None:
            with self._lock:
                sessions = self._sessions  # not the ones that `close` puts in their place meanwhile
                if self._closed:
                    raise RunError("this runner is closed; make a new one")
                session = sessions.get(name)
                if session is None:
                    session = sessions[name] = self._open(name, self._bundle.manifest.segments[name])
        return session

    @property
    def opened(self) -> tuple[str, ...]:
        """The segments whose sessions are open, in the order of opening."""
        return tuple(self._sessions)

    def open_all(self) -> None:
        """Opens every segment that has a model."""
        for name, segment in self._bundle.manifest.segments.items():
            if segment.model is not None:
                _ = self[name]

    @property
    def providers(self) -> tuple[str, ...]:
        """The execution providers of the open sessions, in the order of preference; () where none is open."""
        order = self._bundle.manifest.segments
        found = {name: tuple(each.session.get_providers()) for name, each in self._sessions.items()}
        each = list(dict.fromkeys(found[name] for name in order if name in found))
        return together(each) if each else ()

    def keep(self, names: Collection[str]) -> None:
        """Lets go of the sessions of all segments but these; one that is needed again is opened again."""
        with self._lock:
            before = len(self._sessions)
            self._sessions = {name: session for name, session in self._sessions.items() if name in names}
            closed = len(self._sessions) < before
            if self._closed:  # meanwhile; `close` does not wait for this lock
                self._sessions = {}
        if closed:
            _give_memory_back()

    def close(self) -> None:
        """Lets go of all sessions, for good, and of one that is just being opened as soon as it is; does not wait."""
        self._closed = True
        self._sessions = {}

    def renew(self) -> None:
        """Begins anew in a forked process. To close a session would be to wait for threads that are not there."""
        for each in self._sessions.values():
            keep_for_ever(each.session)
        self._lock = threading.Lock()
        self._sessions = {}
        self._forked = True

    def _open(self, name: str, segment: Segment) -> OnnxExecutor:
        what = f"segment {name!r}"
        if self._forked:
            self._warn_of_telemetry()
        started = time.perf_counter()
        graph = _graph(self._bundle, name)
        may_loop = b"Loop" in graph  # the name of the operator, or of something else
        session = self._settings.open_segment(self._bundle, name, None, graph)
        _check_names(what, "inputs", [value.name for value in session.get_inputs()], segment.reads, exact=True)
        outputs = [source.output for source in segment.writes.values() if source.output is not None]
        _check_names(what, "outputs", [value.name for value in session.get_outputs()], outputs, exact=False)
        if passed := sorted(set(outputs) & set(segment.reads)):
            # onnxruntime leaves a bound output as it was there, and says nothing.
            raise IntegrityError(f"{what}: the output {passed[0]!r} of its graph is an input; write it as a move")
        taken_ms = 1e3 * (time.perf_counter() - started)
        log("info", "opened the segment %s in %.1f ms on %s", name, taken_ms, ", ".join(session.get_providers()))
        return OnnxExecutor(session, may_loop=may_loop)

    def _warn_of_telemetry(self) -> None:
        from eetoolkit_runtime.running import telemetry

        if telemetry.tells():
            warnings.warn(
                "this process was forked after the import of onnxruntime, whose telemetry will keep it from coming to "
                f"its end: set {telemetry.SWITCH}=1 before the import",
                RuntimeWarning,
                stacklevel=3,
            )
        self._forked = False


def shared_pool_threads() -> int | None:
    """Returns how many threads this process's shared pool has, 0 for all; None where it has none."""
    return _shared_pool.threads


def brief_spin_is_known() -> bool:
    """Whether this onnxruntime can let idle workers spin for a while and then sleep."""
    return VERSION >= _SPIN_DURATION_SINCE


def _give_memory_back() -> None:
    """Has the C library return what was freed to the system: glibc would keep it, and closing would save nothing."""
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl
        if trim is not None:
            trim(0)


def _check_names(what: str, kind: str, got: Sequence[str], expected: Any, *, exact: bool) -> None:
    missing = sorted(set(expected) - set(got))
    extra = sorted(set(got) - set(expected)) if exact else []
    if missing or extra:
        raise IntegrityError(
            f"{what}: its graph's {kind} are {list(got)}, the manifest names {sorted(set(expected))}; export again"
        )
