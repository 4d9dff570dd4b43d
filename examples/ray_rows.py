"""Rows on Ray: a dataset is answered by the workers of a cluster (here: two processes of this machine).

python examples/ray_rows.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import ray
import ray.data

import eetoolkit as ee
from eetoolkit.zoo import branchynet, digits


def main(folder: Path) -> None:
    """Answers rows, and looks whether the answers are those of a runner here."""
    test = digits.digits("test")
    images = test.images / 16
    bundle = ee.export(branchynet.load(), images[:1], folder / "digits.ee", labels=digits.LABELS)
    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False)
    rows = ray.data.from_pandas(
        pd.DataFrame({"id": np.arange(len(images)), "image": list(images), "labels": test.labels})
    )

    # Any dataset, such as ray.data.read_parquet("s3://..."): a column `image`, which the network's input is called.
    answered = rows.map_batches(ee.answerer(bundle), batch_format="numpy").to_pandas().sort_values("id")
    assert list(answered.columns) == ["id", "labels", "exit", "confidence", "prediction", "logits"]
    with ee.Runner(bundle, threads=1) as runner:
        assert answered.prediction.tolist() == [runner.run(image[None]).prediction for image in images]
    print(f"{(answered.prediction == answered.labels).mean():.1%} right, {len(answered)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
