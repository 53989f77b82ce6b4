"""Many heads at once against scikit-learn and Keras, one by one: `python -m benchmarks.sweep`.

Logistic heads over C and folds: the solver, a loop over LogisticRegression, LogisticRegressionCV and GridSearchCV, each
in a process of its own, one after another, on the same standardised rows and folds; seconds are of the fits alone,
memory is above what stood before them, and the gap is how far the objective of each fold's fit lies above the lowest
that any of them found. Then Adam heads together against Keras one by one. `benchmarks.heads` times the whole verb.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.heads import DIM, run
from heads.menu import solver
from heads.menu.layers import standardisation, standardise
from heads.menu.search import folds_by_group
from tests.support import synthetic

CS = np.logspace(-5, 1, 7)
TOLERANCE = 1e-7  # of scikit-learn's gradient, at which its objectives are as low as ours


def standardised(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Return Z (rows, DIM) float32 standardised, and y."""
    X, y = synthetic.features(rows, DIM, 0)
    return standardise(X, *standardisation(X)), y


def save_rows(rows: int, folder: str) -> None:
    """Write Z.npy and y.npy."""
    for name, array in zip(("Z.npy", "y.npy"), standardised(rows), strict=True):
        np.save(Path(folder) / name, array)


def by_solver(Z: np.ndarray, y: np.ndarray, folds: Any, tol: float) -> np.ndarray:
    """Each method returns the weights over intercepts of every fold's fit, (C, folds, D + 1)."""
    weight = np.ones((len(y), len(folds)), np.float32)
    for number, (_, held_out) in enumerate(folds):
        weight[held_out, number] = 0
    fit = solver.logistic(Z, y, np.tile(weight, len(CS)), np.repeat(CS, len(folds)), solver.spectrum(Z))
    return np.concatenate([fit.W, fit.b[None]]).T.reshape(len(CS), len(folds), -1)


def by_loop(Z: np.ndarray, y: np.ndarray, folds: Any, tol: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression

    fits = [[LogisticRegression(C=c, tol=tol, max_iter=5000).fit(Z[rest], y[rest]) for rest, _ in folds] for c in CS]
    return np.array([[np.r_[fit.coef_[0], fit.intercept_] for fit in of_c] for of_c in fits])


def by_cv(Z: np.ndarray, y: np.ndarray, folds: Any, tol: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegressionCV

    search = LogisticRegressionCV(
        Cs=CS,
        cv=folds,
        tol=tol,
        max_iter=5000,
        refit=False,
        l1_ratios=(0.0,),
        scoring="neg_log_loss",
        use_legacy_attributes=False,
    ).fit(Z, y)
    paths = np.asarray(search.coefs_paths_)
    return np.moveaxis(paths.reshape(len(folds), len(CS), -1), 0, 1)


def by_grid(Z: np.ndarray, y: np.ndarray, folds: Any, tol: float) -> np.ndarray:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    model = LogisticRegression(tol=tol, max_iter=5000)
    GridSearchCV(model, {"C": CS}, cv=folds, scoring="neg_log_loss", n_jobs=2, refit=False).fit(Z, y)
    return np.empty(0)  # it keeps no fold's fit; they are those of the loop


def one(method: str, folder: Path, tol: float) -> None:
    """Run one method on rows from files in this process, and print seconds, gigabytes and objectives as JSON."""
    Z, y = np.load(folder / "Z.npy"), np.load(folder / "y.npy")
    folds = folds_by_group(y, np.arange(len(y)), 0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.monotonic()
    with threadpool_limits(2 if method == "solver" else 1):  # matrix-vector products: more threads only wait
        weights = METHODS[method](Z, y, folds, tol)
    seconds = time.monotonic() - started
    children = 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss if method == "GridSearchCV" else 0
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before + children
    objectives = [
        _objective(Z[rest], y[rest], c, weights[i, f])
        for i, c in enumerate(CS if len(weights) else ())
        for f, (rest, _) in enumerate(folds)
    ]
    print(json.dumps({"seconds": seconds, "gb": memory / 1e6, "objectives": objectives}))


METHODS = {
    "solver": by_solver,
    "LogisticRegression": by_loop,
    "LogisticRegressionCV": by_cv,
    "GridSearchCV": by_grid,
}


def _objective(Z: np.ndarray, y: np.ndarray, c: float, weights: np.ndarray) -> float:
    z = Z.astype(np.float64) @ weights[:-1] + weights[-1]
    return c * float(np.logaddexp(0, np.where(y == 1, -z, z)).sum()) + float(weights[:-1] @ weights[:-1]) / 2


def against_scikit_learn(rows: int, tol: float) -> None:
    """Print a line for each method."""
    told = {}
    with tempfile.TemporaryDirectory() as folder:
        make = f"from benchmarks import sweep; sweep.save_rows({rows}, {folder!r})"
        run([sys.executable, "-c", make])  # a process of its own: a child's peak memory begins with its parent's
        for method in METHODS:
            command = [sys.executable, "-m", "benchmarks.sweep", "--one", method, "--folder", folder]
            command += ["--tolerance", str(tol)]
            told[method] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    lowest = np.min([each["objectives"] for each in told.values() if each["objectives"]], axis=0)
    print(f"{rows:,} rows x {DIM}: {len(CS)} C x 5 folds = {5 * len(CS)} fits; scikit-learn's tol {tol:g}")
    for method, each in told.items():
        gap = f"{np.max(np.array(each['objectives']) / lowest - 1):.1e}" if each["objectives"] else "-"
        times = each["seconds"] / told["solver"]["seconds"]
        print(
            f"  {method:<22}{each['seconds']:7.1f} s  {times:6.1f} x  {each['gb']:5.2f} GB  largest gap {gap}",
            flush=True,
        )


def against_keras(rows: int, heads: int, epochs: int) -> None:
    """Time `heads` Adam heads together, and as many Keras trainings on the same batches one by one."""
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    Z, y = standardised(rows)
    target = y.astype(np.float32)[:, None]

    def theirs() -> None:
        for _ in range(heads):
            model = keras.Sequential([keras.Input((DIM,)), keras.layers.Dense(1, activation="sigmoid")])
            model.compile("adam", loss="binary_crossentropy", jit_compile=False)
            rng = np.random.default_rng(0)
            for _ in range(epochs):
                for batch in np.split(rng.permutation(rows), range(512, rows, 512)):
                    model.train_on_batch(Z[batch], target[batch])

    def ours() -> None:
        zeros, ones = np.zeros(heads), np.ones((rows, heads), np.float32)
        list(solver.adam(Z, y, ones, solver.Adam(np.full(heads, 1e-3), zeros, zeros, np.arange(heads)), epochs, 0))

    ratios = []
    for _ in range(4):  # the first warms up
        marks = [time.monotonic()]
        for side in (theirs, ours):
            side()
            marks.append(time.monotonic())
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    low, middle, high = sorted(ratios[1:])
    print(
        f"{rows:,} rows, {epochs} epochs: {heads} Keras heads one by one take {middle:.1f} times as long as together "
        f"({low:.1f} to {high:.1f} over 3 pairs)",
        flush=True,
    )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of scikit-learn")
    parser.add_argument("--one", choices=METHODS, help="run one method in this process")
    parser.add_argument("--folder", type=Path, help="where its rows are")
    flags = parser.parse_args()
    if flags.one:
        one(flags.one, flags.folder, flags.tolerance)
        return
    against_scikit_learn(flags.rows, flags.tolerance)
    against_keras(flags.rows, 24, 3)


if __name__ == "__main__":
    main()
