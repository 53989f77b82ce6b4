"""Heads on cached features: seconds and memory of whole processes, and Keras' fit against ours in one process.

`python -m benchmarks.heads` writes made-up caches of 20,000 and 200,000 rows of 1280 features under a temporary folder
(1.1 GB), runs the verbs as a user does, and prints wall seconds and peak memory above the imports.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from heads.menu.keras import SigmoidHead
from tests.support import synthetic

DIM = 1280
IMPORTS = (
    "import extract.run, heads.compare.run, heads.data.dataset, heads.menu.registry, heads.train, sklearn.linear_model"
)


def run(command: list[str]) -> tuple[float, float]:
    """Run a process; return its wall seconds and its peak resident memory in GB."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed with status {status}")
    return time.monotonic() - started, usage.ru_maxrss / 1e6


def verbs(rows: int, folder: Path) -> None:
    """Time `python -m heads train` on `rows` rows: the default heads and the sweep up to 20,000, then logistic."""
    out = folder / str(rows)
    make = (
        f"import pathlib; from tests.support import synthetic; synthetic.workspace(pathlib.Path({str(out)!r}), {rows})"
    )
    run([sys.executable, "-c", make])  # a process of its own: a child's peak memory begins with its parent's
    matrix = rows * DIM * 4 / 1e9
    _, floor = run([sys.executable, "-c", IMPORTS])
    for head in (["sigmoid,logistic", "sweep"] if rows <= 20_000 else []) + ["logistic"]:
        seconds, peak = run([sys.executable, "-m", "heads", "train", "--out", str(out), "--head", head])
        print(
            f"{rows:>8,} rows  {head:<18}{seconds:6.1f} s  peak {peak:5.2f} GB = imports {floor:.2f} GB "
            f"+ {(peak - floor) / matrix:.1f} x the matrix of {matrix:.2f} GB",
            flush=True,
        )


def against_keras_fit(rows: int, epochs: int, pairs: int) -> None:
    """Time SigmoidHead against keras.Model.fit on the same rows, in turn; print the ratio of each pair."""
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    X, y = synthetic.features(rows, DIM, 0)
    target = y.astype(np.float32)[:, None]

    def ours() -> None:
        SigmoidHead(epochs=epochs).fit(X, y)

    def theirs() -> None:
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile("adam", loss="binary_crossentropy", jit_compile=False)
        model.fit(X, target, batch_size=512, epochs=epochs, verbose=0)

    ours(), theirs()  # warm-up
    ratios = []
    for _ in range(pairs):
        marks = [time.monotonic()]
        for side in (theirs, ours):
            side()
            marks.append(time.monotonic())
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    print(
        f"{rows:>8,} rows  {epochs} epochs: Keras' fit takes {np.median(ratios):.1f} times as long as ours "
        f"({min(ratios):.1f} to {max(ratios):.1f} over {pairs} pairs)",
        flush=True,
    )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 200_000])
    with tempfile.TemporaryDirectory() as folder:
        for rows in parser.parse_args().rows:
            verbs(rows, Path(folder))
    against_keras_fit(1_000, 40, 5)
    against_keras_fit(20_000, 10, 5)


if __name__ == "__main__":
    main()
