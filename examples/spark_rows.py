"""Rows on Spark: a DataFrame is answered by the workers of a cluster (here: two processes of this machine).

python examples/spark_rows.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from pyspark.sql import SparkSession

import eetoolkit as ee
from eetoolkit.zoo import branchynet, digits

SCHEMA = "id long, labels long, exit string, confidence float, prediction long, logits array<float>"


def main(folder: Path) -> None:
    """Answers rows, and looks whether the answers are those of a runner here."""
    test = digits.digits("test")
    images = test.images / 16
    bundle = ee.export(branchynet.load(), images[:1], folder / "digits.ee", labels=digits.LABELS)
    local = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = local.config("spark.pyspark.python", sys.executable).getOrCreate()
    try:
        # Spark has no tensors: a picture is an array of its 64 numbers, which gets the input's shape, 1 by 8 by 8.
        table = [
            (number, image.ravel().tolist(), int(label))
            for number, (image, label) in enumerate(zip(images, test.labels, strict=True))
        ]
        rows = session.createDataFrame(table, "id long, image array<float>, labels long").repartition(4)
        answered = rows.mapInPandas(ee.answerer(bundle), SCHEMA).orderBy("id").collect()
    finally:
        session.stop()
    assert len(answered[0].logits) == 10
    with ee.Runner(bundle, threads=1) as runner:
        assert [row.prediction for row in answered] == [runner.run(image[None]).prediction for image in images]
    right = sum(row.prediction == row.labels for row in answered)
    print(f"{right / len(answered):.1%} right, {len(answered)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()))
