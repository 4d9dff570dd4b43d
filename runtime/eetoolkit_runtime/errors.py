"""The errors that users see.

```
EEToolkitError
├── ExportError            a network that cannot become a bundle (host)
├── BundleError            a bundle that cannot be used
│   ├── ManifestError      its plan is wrong
│   └── IntegrityError     its files are missing, changed or cannot be loaded
├── RunError               a run that failed
│   ├── InputError         an input that the network does not take
│   └── DeadlineError      no answer existed when time was up or the run was interrupted
└── TuneError              thresholds that cannot be found
```

A message says what, where, got, expected, and the fix. Errors of onnxruntime and msgspec are re-raised from these.
"""

from __future__ import annotations


class EEToolkitError(Exception):
    """Any error that eetoolkit raises on purpose."""


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


class DeadlineError(RunError):
    """No answer existed when the time was up, or when the run was interrupted."""


class TuneError(EEToolkitError):
    """Thresholds that cannot be found from what was given."""


def no_such_case(segment: str, on: str | None, case: int, cases: int) -> RunError:
    """Returns what is raised where the switch on the slot `on` has no such case."""
    return RunError(f"segment {segment!r}: the switch {on!r} is {case}, expected 0 to {cases - 1}")


def too_many_visits(segment: str, limit: int) -> RunError:
    """Returns what is raised where a loop exceeds its bound."""
    return RunError(f"segment {segment!r}: more than max_visits {limit} visits; is the loop endless?")


def failure(segment: str, error: Exception) -> RunError:
    """Returns what is raised for an error of onnxruntime: the segment and the first line of the message."""
    return RunError(f"segment {segment!r}: {first_line(error)}")


def first_line(error: Exception) -> str:
    """Returns what another library's error says, in one line and at most 300 characters."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if len(line) <= 300 else f"{line[:299]}…"
