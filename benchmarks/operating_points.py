"""Whether `THRESHOLD=precision=` and `recall=` keep what they promise: `python -m benchmarks.operating_points`.

Each run splits the rows by group, fits a logistic regression, chooses its threshold on validation and judges it on
test. Simulated rows are judged on 100,000 of the same distribution, which is the truth; `--out OUT` takes a real
workspace, whose test rows are a sample: it says how often they contradict the promise by a one-sided 95 % bound too.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks import intervals
from extract import workspace
from heads import dataset, decision
from heads.layers import standardisation, standardise

C = 1e-3
SHARES = (0.5, 0.75)  # where validation begins, and test
TRUTH = 100_000  # rows that simulated promises are judged on

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]  # y, p, groups: (n,) each


def split(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return 0, 1 or 2, for train, validation and test, of each row (n,); groups stay whole."""
    of_group = np.searchsorted(SHARES, rng.random(int(groups.max()) + 1), side="right")
    return of_group[groups]


def fitted(X: np.ndarray, y: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Return the probabilities (n,) of a logistic regression that saw the rows `train`, bool (n,)."""
    Z = standardise(X, *standardisation(X[train]))
    return LogisticRegression(C=C, max_iter=1000).fit(Z[train], y[train]).predict_proba(Z)[:, 1]


def real(out: Path, runs: int) -> list[tuple[Rows, Rows]]:
    """Return validation and test of `runs` splits of a workspace's labelled rows."""
    parts = [part for part in dataset.join(workspace.resolve(out=str(out))).parts.values() if len(part)]
    X, y = (np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y"))
    groups = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)[1]
    made = []
    for run in range(runs):
        which = split(groups, np.random.default_rng(run))
        p = fitted(X, y, which == 0)
        made.append(tuple((y[which == k], p[which == k], groups[which == k]) for k in (1, 2)))
    print(f"{out.name}: {len(y):,} rows, {groups.max() + 1:,} groups; validation and test a quarter each")
    return made


def simulated(rows: int, size: int, shift: float, runs: int) -> list[tuple[Rows, Rows]]:
    """Return validation of a tenth of `rows` and the truth, `runs` times; groups of `size` shift their scores."""
    made = []
    for run in range(runs):
        rng = np.random.default_rng(run)
        made.append(tuple(intervals.draw(rng, n, size, 0.33, 4.0, shift, 0.0) for n in (rows // 10, TRUTH)))
    print(f"simulated: validation {rows // 10:,} rows, groups of {size}; test {TRUTH:,} rows")
    return made


def judge(made: list[tuple[Rows, Rows]], spec: str, prior: float | None, *, truth: bool) -> None:
    """Print how often one target was refused, held and was violated on test."""
    target, told = decision.parse(spec, prior), Counter()
    calls = []
    for validation, (y, p, groups) in made:
        point = decision.choose(target, *validation, len(y))
        if point.refused:
            told["refused"] += 1
            continue
        found = decision.figures(target.prior, y, p >= point.threshold, groups)[target.kind]
        told["below"] += found.value is not None and found.value < target.values[0]
        rows = (y[p >= point.threshold], groups[p >= point.threshold])
        told["contradicted"] += found.high < target.values[0]
        calls.append(decision.figures(target.prior, y, p >= point.threshold, groups)["recall"].value)
        del rows
    accepted = len(made) - told["refused"]
    print(
        f"  {spec}{'' if prior is None else f' PRIOR={prior:g}'}: {told['refused']} of {len(made)} refused; of "
        f"{accepted} accepted {told['below']} {'violated' if truth else 'below it on test'}"
        + ("" if truth else f", {told['contradicted']} contradicted by test")
        + (f"; mean recall {np.mean(calls):.3f}" if calls else ""),
        flush=True,
    )




