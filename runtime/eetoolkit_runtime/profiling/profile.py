"""What each segment and each exit of a bundle costs on one machine: a value that is kept, shown and compared."""

from __future__ import annotations

import html
import os
import zipfile
from pathlib import Path

import msgspec

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle, load
from eetoolkit_runtime.bundle.integrity import read_regular
from eetoolkit_runtime.bundle.rewriting import change_bundle
from eetoolkit_runtime.bundle.store import in_place_of, named_by_content
from eetoolkit_runtime.errors import BundleError, InputError
from eetoolkit_runtime.files.outfile import writing
from eetoolkit_runtime.files.paths import absolute, shown
from eetoolkit_runtime.plan.manifest import schema_text
from eetoolkit_runtime.plan.types import Manifest, SavedProfile, Threshold
from eetoolkit_runtime.printable import printable
from eetoolkit_runtime.profiling.budget import Part, told
from eetoolkit_runtime.profiling.comparison import Comparison, Side, compare
from eetoolkit_runtime.profiling.costs import Energy, ExitCost, Memory, SegmentCost, Share, WholeCost
from eetoolkit_runtime.profiling.latency import Amount, Count, Difference, Latency, Some
from eetoolkit_runtime.profiling.link import LinkCost
from eetoolkit_runtime.profiling.machine import Condition, Machine
from eetoolkit_runtime.running.decision import spell_threshold

VERSION = 6
_FAR = 1.3  # times its median from which a mean is far from it
_STEM = "profile"
_LIMIT_BYTES = 16 << 20


class Profile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a bundle costs on one machine; what has a default may be left out by whoever else writes one.

    Attributes:
        version: Of this format.
        bundle: The bundle's name.
        files: Digests of its graphs, which say whether another profile is of the same bundle.
        measured: When it began, ISO 8601, UTC.
        machine: Where.
        backend: What ran the graphs and read the clock, such as `python` or `native`.
        timer_step_us: The smallest difference that two readings of the clock can have; None: not told.
        before: The machine's state when it began.
        after: And when it ended.
        threads: Workers for each operator; None: one per physical core.
        spin: What idle workers did; empty: not told.
        pool: Whose workers they were; empty: not told.
        providers: The execution providers of its sessions, in onnxruntime's order, without their options.
        rows: How many different inputs were run, fewer than given where there was no time for all: shares, visits and
            accuracies are theirs; 0: not told, as below.
        timed: How many of them, in the same shares, were timed: latencies are theirs.
        no_time_for: Figures that are missing, or are of less than they should be, since the time was up.
        rounds: How many there were, each over all of these, or where that takes too long over some of them in turn.
        thresholds: Of each exit.
        warmup_rounds: How often each before that, until the latency was steady.
        steady: Whether it was.
        cooled_s: How long it paused between rounds, so that the machine could cool down.
        segments: By name, in the plan's order.
        exits: By name, in the plan's order.
        expected: A call, over these inputs with these thresholds; None: not measured.
        full_path: A call of which no exit fires, by the same inputs; None: not measured.
        overhead_us: What a full path takes beside its segments' runs, answers and clock readings included, by segment.
        accuracy: Of all inputs; None without labels.
        memory: Of this process.
        whole: The network as one session; None where no file of it was given, or there was no time.
        energy: None where the machine has no meter that this process may read.
        link: To a server that goes on behind an exit; None where none was given.
    """

    version: int = VERSION
    bundle: str
    files: dict[str, str]
    measured: str
    machine: Machine
    backend: str
    threads: Some | None
    timer_step_us: Amount | None = None
    before: Condition = Condition()
    after: Condition = Condition()
    spin: str = ""
    pool: str = ""
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    rows: Count = 0
    timed: Count = 0
    no_time_for: tuple[Part, ...] = ()
    rounds: Count = 0
    warmup_rounds: Count = 0
    steady: bool = True
    thresholds: dict[str, Threshold] = {}
    cooled_s: Amount = 0
    segments: dict[str, SegmentCost]
    exits: dict[str, ExitCost]
    expected: Latency | None = None
    full_path: Latency | None = None
    overhead_us: Difference = 0
    accuracy: Share | None = None
    memory: Memory = Memory()
    whole: WholeCost | None = None
    energy: Energy | None = None
    link: LinkCost | None = None

    @property
    def noise(self) -> str | None:
        """What a mean that is far from its median says of the machine; None where none is."""
        known = {name: cost.latency for name, cost in self.segments.items()}
        known |= {name: cost.latency for name, cost in self.exits.items()}
        known |= {} if self.whole is None else {self.whole.file: self.whole.latency}
        far = {name: one.mean_ms / one.p50_ms for name, one in known.items() if one is not None and one.p50_ms > 0}
        name = max(far, key=far.__getitem__, default="")
        if far.get(name, 0.0) <= _FAR:
            return None
        loads = [f"{one.load:.1f} {when}" for one, when in ((self.before, "before"), (self.after, "after")) if one.load]
        load = f" (load {', '.join(loads)}; {self.machine.cores} cores)" if loads else ""
        return (
            f"the mean of {name} is {far[name]:.1f} times its median: other programs ran{load}, or inputs differ; "
            "tuning and the picture go by robust means, which a quiet machine tells best"
        )

    @property
    def gaps(self) -> str | None:
        """What there was no time for, in words, and what helps; None where nothing is missing."""
        if not self.no_time_for:
            return None
        return f"there was no time for {told(self.no_time_for)}; profile with more seconds (--seconds)"

    @staticmethod
    @checked(InputError)
    def read(source: str | os.PathLike[str] | Bundle) -> Profile:
        """Returns the profile in a JSON file, or the one that was saved in a bundle.

        Raises:
            BundleError: Nothing is there, it is not a profile, or no profile was saved in the bundle.
        """
        if isinstance(source, Bundle):
            return _saved(source)
        path = absolute(source, BundleError)
        try:
            if path.is_dir() or (path.is_file() and zipfile.is_zipfile(path)):
                return _saved(load(path))
        except OSError as error:
            raise BundleError(f"cannot read {shown(path)}: {error.strerror or error}") from error
        return _read(path)

    @checked(InputError)
    def write(self, target: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Writes it as JSON to `target` and returns its path.

        Raises:
            EEToolkitError: Something is there and `overwrite` is not set, or it cannot be written.
        """
        with writing(target, overwrite=overwrite) as file:
            file.write(encode(self))
        return Path(target)

    @checked(InputError)
    def save(self, bundle: str | os.PathLike[str] | Bundle) -> Bundle:
        """Saves it in its bundle in one step, in the place of the one before; returns the bundle as it is then.

        The whole profile becomes a file of the bundle, and what the segments take (p90) goes into its manifest, so that
        deadlines go by it. What is changed is the manifest on disk, which may have been tuned since `bundle` was
        opened.

        Raises:
            BundleError: The profile is of another bundle, or the bundle is packed or cannot be written.
        """

        def change(now: Bundle, folder: Path) -> Manifest:
            plan = now.manifest
            if self.files != digests(plan):
                raise BundleError(
                    f"this profile is of another bundle, {self.bundle!r}, or of another build of {plan.name!r}"
                )
            taken = {name: cost.latency.p90_ms for name, cost in self.segments.items() if cost.latency is not None}
            path = folder / f"{_STEM}.json"
            path.write_bytes(encode(self))
            name, file = named_by_content(path, _STEM)
            before = plan.profile.file if plan.profile is not None else None
            files = in_place_of(before, {name: file}, plan.files)
            return msgspec.structs.replace(plan, profile=SavedProfile(file=name, expected_ms=taken), files=files)

        return change_bundle(bundle, change)

    @checked(InputError)
    def compare(self, other: Profile) -> Comparison:
        """Returns how `other`, b, differs from this one, a; they may be of different bundles and machines."""
        return compare(self._side(), other._side())

    def _side(self) -> Side:
        facts: dict[str, object] = {"bundle": self.bundle}
        for what in ("processor", "cores", "memory_bytes", "system", "python", "onnxruntime", "numpy"):
            facts[what] = getattr(self.machine, what)
        facts |= {"backend": self.backend, "threads": self.threads, "spin": self.spin, "pool": self.pool}
        facts |= {"providers": ", ".join(self.providers), "governor": self.before.governor}
        facts |= {"throttled": self.after.throttled}
        facts |= {f"threshold of {name}": spell_threshold(threshold) for name, threshold in self.thresholds.items()}
        if self.rows:
            facts |= {"inputs": self.rows}
            facts |= {f"share of {name}": f"{cost.share:.1%}" for name, cost in self.exits.items()}
        facts |= {} if self.accuracy is None else {"accuracy": f"{self.accuracy:.1%}"}
        return Side(
            {what: fact for what, fact in facts.items() if fact != ""},  # which stands for what was not told
            self.files,
            self.expected,
            self.full_path,
            {name: cost.latency for name, cost in self.segments.items()},
            {name: cost.latency for name, cost in self.exits.items()},
        )

    def __repr__(self) -> str:
        return f"<Profile {str(self).partition(chr(10))[0]}>"

    def _repr_html_(self) -> str:
        """Returns its lines, for notebooks."""
        return f"<pre>{html.escape(str(self))}</pre>"

    def __str__(self) -> str:
        call, full = self.expected, self.full_path
        threads = "a worker for each core" if self.threads is None else f"threads={self.threads}"
        inputs = "1 input" if self.rows == 1 else f"{self.rows} inputs"
        lines = [
            f"{self.bundle} on {self.machine.processor}, {threads}: {inputs}, {self.rounds} rounds",
        ]
        if call is not None and full is not None:
            took = f"a call {call.mean_ms:.4g} ms in the mean, p90 {call.p90_ms:.4g} ms"
            lines.append(f"{took}; a full path {full.mean_ms:.4g} ms")
        for name, cost in self.exits.items():
            right = "" if cost.accuracy is None else f", {cost.accuracy:.1%} of these right"
            took = "" if cost.latency is None else f", {cost.latency.mean_ms:.4g} ms"
            lines.append(f"{name}: {cost.share:.1%} leave here{took}{right}")
        lines += [] if self.link is None else [f"the link: {self.link}"]
        lines += [f"note: {note}" for note in (self.gaps, self.noise) if note is not None]
        return "\n".join(map(printable, lines))


class _Head(msgspec.Struct):
    """The keys that say whether it is a profile, and whether the rest can be read at all."""

    machine: msgspec.Raw
    version: int | None = None


def json_schema() -> bytes:
    """Returns the JSON Schema of a profile, for other languages."""
    return schema_text(msgspec.json.schema(Profile))


def digests(plan: Manifest) -> dict[str, str]:
    """Returns the digest of every graph, by which two profiles of one bundle know each other."""
    return {name: file.sha256 for name, file in plan.files.items() if name.endswith(".onnx")}


def encode(profile: Profile) -> bytes:
    """Returns a profile as indented UTF-8 JSON."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=1) + b"\n"


def decode(text: bytes, what: str) -> Profile:
    """Returns the profile in `text`; `what` names it in errors.

    Raises:
        BundleError: Not a profile, or of another version.
    """
    try:
        head = msgspec.json.decode(text, type=_Head)
        if head.version != VERSION:
            raise BundleError(
                f"{what}: profile version {head.version!r}, this eetoolkit reads {VERSION}; profile again, "
                "`eetoolkit profile BUNDLE --save` or `--output FILE`"
            )
        found = msgspec.json.decode(text, type=Profile)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{what} is not a profile: {error}") from error
    _check_names(found, what)
    return found


def _check_names(found: Profile, what: str) -> None:
    """Refuses a profile without segments or exits, or with exits of which it says nothing elsewhere."""
    named = {cost.exit for cost in found.segments.values() if cost.exit is not None}
    if not found.segments or not named <= found.exits.keys() or not found.thresholds.keys() <= found.exits.keys():
        raise BundleError(
            f"{what} is not a profile: its {len(found.segments)} segments, {len(found.exits)} exits and "
            f"{len(found.thresholds)} thresholds do not name the same exits; profile again"
        )


def saved_profile(bundle: Bundle) -> Profile | None:
    """Returns the profile that was saved in a bundle; None where there is none.

    Raises:
        BundleError: Its file is not a profile.
    """
    saved = bundle.manifest.profile
    return None if saved is None or saved.file is None else _read(bundle.path / saved.file)


def _saved(bundle: Bundle) -> Profile:
    found = saved_profile(bundle)
    if found is None:
        raise BundleError(f"no profile was saved in {bundle.place}; run `eetoolkit profile {bundle.place} --save`")
    return found


def _read(path: Path) -> Profile:
    try:
        return decode(read_regular(path, _LIMIT_BYTES), str(shown(path)))
    except FileNotFoundError as error:
        raise BundleError(f"{shown(path)} does not exist") from error
    except OSError as error:
        raise BundleError(f"cannot read {shown(path)}: {error.strerror or error}") from error
