"""The errors that users see.

```
EEToolkitError
├── ExportError            a network that cannot become a bundle (host)
├── BundleError            a bundle that cannot be used
│   ├── ManifestError      its plan is wrong
│   └── IntegrityError     its files are missing, changed or cannot be loaded
├── RunError               a run that failed
│   ├── InputError         an input that the network does not take
│   └── DeadlineError      no answer existed when time was up
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
    """No answer existed when the time was up."""


class TuneError(EEToolkitError):
    """Thresholds that cannot be found from what was given."""
