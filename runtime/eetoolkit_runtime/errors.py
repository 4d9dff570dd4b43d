"""The errors that users see.

```
EEToolkitError
├── ExportError            a network that cannot become a bundle (host)
├── BundleError            a bundle that cannot be used
│   ├── ManifestError      its plan is wrong
│   └── IntegrityError     its files are missing, changed or cannot be loaded
├── RunError               a run that failed
│   ├── InputError         an input that the network does not take
│   ├── ProviderError      an execution provider that is not there or refuses a segment
│   ├── DeadlineError      no answer existed when time was up or the run was interrupted
│   └── RemoteError        a server that gave no answer, or none that may be believed
├── TuneError              thresholds that cannot be found
└── DeviceError            another device that cannot be reached or used (host)
```

A message says what, where, got, expected, and the fix, in one line that a terminal may show: a bundle's names are
strangers' words. Errors of onnxruntime and msgspec are re-raised from these.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from eetoolkit_runtime.printable import cut, flat

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_BARE = {RuntimeError, ValueError, TypeError, MemoryError, IndexError, KeyError, OverflowError}
"""What onnxruntime's binding and numpy raise beside classes of their own."""
_ALIKE = 0.75  # of 1, as `difflib` counts: one letter of four is another, or two have changed places


class EEToolkitError(Exception):
    """Any error that eetoolkit raises on purpose."""

    def __str__(self) -> str:
        return flat(super().__str__())


class ExportError(EEToolkitError):
    """A network that cannot become a bundle."""


class BundleError(EEToolkitError):
    """A bundle that cannot be used."""


class ManifestError(BundleError):
    """A manifest that is not a valid plan."""


class IntegrityError(BundleError):
    """A file of a bundle that is missing, changed or cannot be loaded."""


class RunError(EEToolkitError):
    """A run that failed."""


class InputError(RunError):
    """An input that the network does not take."""


class ProviderError(RunError):
    """An execution provider that is not there, or that refuses a segment; the bundle's files are sound."""


class DeadlineError(RunError):
    """No answer existed when the time was up, or when the run was interrupted."""


class RemoteError(RunError):
    """A server that gave no answer, or none that may be believed.

    Args:
        message: For people.
        again: Whether the same request may well be answered when it is sent again.
    """

    def __init__(self, message: str, *, again: bool = False) -> None:
        super().__init__(message)
        self.again = again


class TuneError(EEToolkitError):
    """Thresholds that cannot be found from what was given."""


class DeviceError(EEToolkitError):
    """Another device that cannot be reached, or on which something cannot be done."""


def no_such_case(segment: str, on: str | None, case: int, cases: int) -> RunError:
    """Returns what is raised where the switch on the slot `on` has no such case."""
    return RunError(f"segment {segment!r}: the switch {on!r} is {case}, expected 0 to {cases - 1}")


def too_many_visits(segment: str, limit: int) -> RunError:
    """Returns what is raised where a loop exceeds its bound."""
    return RunError(f"segment {segment!r}: more than max_visits {limit} visits; is the loop endless?")


def failure(segment: str, error: Exception) -> RunError:
    """Returns what is raised for an error of onnxruntime: the segment and the first line of the message."""
    return RunError(f"segment {segment!r}: {first_line(error)}")


def is_foreign(error: BaseException | None) -> bool:
    """Whether an error is one that onnxruntime or numpy raises, and not what a signal handler of the user's does."""
    kind = type(error)
    return kind in _BARE or kind.__module__.partition(".")[0] in ("onnxruntime", "numpy")


@contextlib.contextmanager
def running(what: str) -> Iterator[None]:
    """Raises a `RunError` that begins with `what` for whatever onnxruntime raises inside."""
    try:
        yield
    except Exception as error:
        if not is_foreign(error):
            raise
        raise RunError(f"{what}: {first_line(error)}") from error


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns `; did you mean 'exit1'?` with the known name that is closest; empty where none is, or several are."""
    from difflib import SequenceMatcher

    alike = sorted((SequenceMatcher(None, str(name).lower(), each.lower()).ratio(), each) for each in set(known))
    if not alike or alike[-1][0] < _ALIKE or (len(alike) > 1 and alike[-2][0] == alike[-1][0]):
        return ""
    return f"; did you mean {alike[-1][1]!r}?"


def first_line(error: Exception) -> str:
    """Returns what another library's error says, in one line and at most 300 characters."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return cut(line, 300)
