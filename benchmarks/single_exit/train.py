"""Trains the networks that are not trained yet, and keeps beside their weights how often each is right."""

from __future__ import annotations

import argparse
import json
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks.cases.archives import cache
from benchmarks.single_exit.case import Case
from eetoolkit_runtime.arrays import Array

NAMES: Final = ("mnist", "textures", "vit")
_ROWS_AT_ONCE: Final = 100


def load_case(name: str) -> Case:
    """Returns a case, fetched and trained if that has not been done yet."""
    found: Case = import_module(f"benchmarks.single_exit.{name}").load()
    return found


def accuracy(case: Case) -> float:
    """Returns the share of the test rows on which the network is right, 0 to 1."""
    inputs, labels = case.test
    right = 0
    for start in range(0, len(labels), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        given = [array[rows] for array in inputs.values()] if isinstance(inputs, dict) else [inputs[rows]]
        right += int((_logits(case, given).argmax(axis=1) == labels[rows]).sum())
    return right / len(labels)


def _logits(case: Case, given: list[Array]) -> Array:
    if isinstance(case.model, Path):
        import onnxruntime as ort

        session = ort.InferenceSession(case.model)
        names = [value.name for value in session.get_inputs()]
        return np.asarray(session.run(None, dict(zip(names, given, strict=True)))[0])
    with torch.inference_mode():
        found: Array = case.model(*map(torch.from_numpy, given)).numpy()
    return found


def main() -> None:
    """Tells and keeps the accuracy of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="cases; none: all")
    path = cache() / "single_exit.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for name in parser.parse_args().names or NAMES:
        found[name] = accuracy(load_case(name))
        print(f"{name}: {found[name]:.2%} of the test rows right")
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
