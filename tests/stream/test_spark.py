"""The example of docs/streaming.md: Spark maps its partitions to cross-products and adds them up."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mme

from .data import close

DOCS = Path(__file__).parents[2] / "docs" / "streaming.md"


def example() -> str:
    """The block of code of the documentation."""
    found = re.search(r"## Spark\n\n[^\n]*\n\n((?:    [^\n]*\n|\n)+)", DOCS.read_text())
    assert found is not None
    return "\n".join(line[4:] for line in found[1].splitlines())


def test_the_example_maps_batches_to_sums(data):
    """Its functions without Spark: a partition is an iterator of record batches."""
    pa = pytest.importorskip("pyarrow", reason="pyarrow (extra 'arrow') is not installed")
    names: dict = {}
    functions = example().split("sums = frame")[0]
    exec(functions, names)
    table = pa.Table.from_pandas(data[["y", "x", "f", "g"]], preserve_index=False)
    batches = [table.slice(i, 90).to_batches()[0] for i in range(0, 700, 90)]
    parts = (batches[:3], batches[3:], [])
    made = [pickle.loads(b.column(0)[0].as_py()) for part in parts for b in names["sums_of"](part)]
    assert len(made) == 2
    close(mme.lmer(names["FORMULA"], data), (made[0] + made[1]).fit())


@pytest.mark.slow
def test_spark(data):
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("Spark needs a Java virtual machine")
    works = subprocess.run(["java", "-version"], capture_output=True).returncode == 0
    if not works:
        pytest.skip("Spark needs a Java virtual machine that starts")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        frame = spark.createDataFrame(data[["y", "x", "f", "g"]]).repartition(5)
        names: dict = {"frame": frame}
        exec(example(), names)
    finally:
        spark.stop()
    close(mme.lmer(names["FORMULA"], data), names["result"])
