"""Verifying a bundle: by its golden samples anywhere, and against its source network where that is at hand."""

from __future__ import annotations

import os
from typing import Any

from eetoolkit_runtime.arguments import checked
from eetoolkit_runtime.bundle.bundle import Bundle
from eetoolkit_runtime.errors import InputError
from eetoolkit_runtime.single_file.verify import is_one_file, verify_single_file
from eetoolkit_runtime.verify import VerifyReport
from eetoolkit_runtime.verify import verify as verify_samples


@checked(InputError)
def verify(
    bundle: str | os.PathLike[str] | Bundle,
    model: Any = None,
    *,
    inputs: Any = None,
    exits: Any = None,
    criterion: Any = None,
    fresh: int = 8,
    seed: int = 0,
    tolerance: float | None = None,
) -> VerifyReport:
    """Returns how the bundle's answers on this machine compare with those of the source framework, exit by exit.

    A plan that is one ONNX file is checked by the golden samples of its description, which lies beside it.

    Every file's hash is checked, and the golden samples are run. With the source `model`, its own answers on `inputs`
    and on `fresh` random inputs (drawn like the golden ones: their mean and spread, their range of integers) are
    compared as well; a quantised bundle's differ from them by its quantisation. The report tells ties, where a
    confidence is within rounding of its threshold, from failures.

    Args:
        bundle: A `Bundle` or its path, or that of a plan as one ONNX file.
        model: What was exported: a module, a path, or a list; None: golden samples only, which needs no torch.
        inputs: Further real inputs, any number of rows.
        exits: As it was given to `export`.
        criterion: As it was given to `export`, where it has functions of yours: a bundle holds only their names.
        fresh: How many random rows.
        seed: Their seed.
        tolerance: None: the one stated in the bundle.

    Raises:
        BundleError: The bundle cannot be opened, or a file was changed.
        InputError: There is nothing to compare with.
        ExportError: The model is not the one that was exported.
    """
    if is_one_file(bundle):
        if model is not None:
            raise InputError(f"{bundle} is checked by its golden samples; compare the bundle with the network")
        return verify_single_file(bundle, tolerance=tolerance)
    if model is None:
        return verify_samples(bundle, tolerance=tolerance)
    from eetoolkit_exporters.emitting.samples import source_samples

    return verify_samples(
        bundle,
        source_samples(bundle, model, inputs=inputs, exits=exits, criterion=criterion, fresh=fresh, seed=seed),
        tolerance=tolerance,
    )
