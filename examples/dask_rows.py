"""Rows on Dask: the partitions of a DataFrame are answered by the workers of a cluster (here: threads of this process).

python examples/dask_rows.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd

import eetoolkit as ee
from eetoolkit.zoo import branchynet, digits


def main(folder: Path) -> None:
    """Answers rows, and looks whether the answers are those of a runner here."""
    test = digits.digits("test")
    images = test.images / 16
    bundle = ee.export(branchynet.load(), images[:1], folder / "digits.ee", labels=digits.LABELS)
    frame = pd.DataFrame({"id": np.arange(len(images)), "image": list(images), "labels": test.labels})
    with dask.config.set({"dataframe.convert-string": False}):  # arrays are no texts
        rows = dd.from_pandas(frame, npartitions=4)

    answer = ee.answerer(bundle, outputs=())  # no outputs but what was found
    answered = rows.map_partitions(answer, meta=answer(frame.head(0))).compute()

    assert list(answered.columns) == ["id", "labels", "exit", "confidence", "prediction"]
    assert answered.index.equals(frame.index)
    with ee.Runner(bundle, threads=1) as runner:
        assert answered.prediction.tolist() == [runner.run(image[None]).prediction for image in images]
    print(f"{(answered.prediction == answered.labels).mean():.1%} right, {len(answered)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
