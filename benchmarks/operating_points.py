"""Whether `THRESHOLD=precision=` and `recall=` keep what they promise: `python -m benchmarks.operating_points`.

Each run draws rows, chooses a threshold on a validation part and judges it on test, at the same prior. Simulated rows
are judged on 100,000 of the same distribution, which is the truth. `--out OUT` takes a real workspace instead: its
labelled rows are split by group, a logistic regression is fitted, and test is a sample that may fall short by chance,
so the runs in which it contradicts the promise (its one-sided 95 % upper bound is below) are counted too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from benchmarks import intervals
from extract import workspace
from heads.data import dataset
from heads.menu.layers import standardisation, standardise
from heads.stats import decision

C = 1e-3
SHARES = (0.5, 0.75)  # where validation begins among the groups, and test
ROWS, TRUTH = 20_000, 100_000  # simulated: a tenth of the first is validation; promises are judged on the second
# name: (rows a group, share of positives, distance of the classes, sd of a group's shift, sd of its distance)
CASES = {
    "independent rows": (1, 0.33, 4.0, 0.0, 0.0),
    "groups of 10 that shift": (10, 0.33, 4.0, 0.7, 0.0),
    "groups of 10 of uneven quality": (10, 0.33, 4.0, 0.0, 1.0),
}
TARGETS = (("precision=0.98", None), ("precision=0.9", 0.05), ("recall=0.95", None))

Pair = tuple[tuple[np.ndarray, np.ndarray, np.ndarray], ...]  # validation and test; each y, p, groups: (n,)


def simulated(case: str, runs: int) -> Iterator[Pair]:
    """Yield validation and truth, `runs` times."""
    size, *shape = CASES[case]
    for run in range(runs):
        rng = np.random.default_rng(run)
        yield tuple(intervals.draw(rng, n, size, *shape) for n in (ROWS // 10, TRUTH))


def real(out: Path, runs: int) -> Iterator[Pair]:
    """Yield validation and test of `runs` splits of a workspace's labelled rows; groups stay whole."""
    parts = [part for part in dataset.join(workspace.resolve(out=str(out))).parts.values() if len(part)]
    X, y, groups = (np.concatenate([getattr(part, name) for part in parts]) for name in ("X", "y", "groups"))
    groups = np.unique(groups, return_inverse=True)[1]
    for run in range(runs):
        of_group = np.searchsorted(SHARES, np.random.default_rng(run).random(int(groups.max()) + 1), side="right")
        which = of_group[groups]  # 0, 1, 2: train, validation, test
        Z = standardise(X, *standardisation(X[which == 0]))
        model = LogisticRegression(C=C, max_iter=1000).fit(Z[which == 0], y[which == 0])
        p = model.predict_proba(Z)[:, 1]
        yield tuple((y[which == k], p[which == k], groups[which == k]) for k in (1, 2))


def judge(pairs: list[Pair], spec: str, prior: float | None) -> str:
    """Say how often one target was refused, and of the rest how often test fell short and how often it contradicts."""
    target = decision.parse(spec, prior)
    short = contradicted = 0
    other = {"precision": "recall", "recall": "precision"}[target.kind]
    cost = []
    for validation, (y, p, groups) in pairs:
        point = decision.choose(target, *validation, len(y))
        if point.refused:
            continue
        found = decision.figures(prior, y, p >= point.threshold, groups)
        judged = found[target.kind]
        cost.append(found[other].value)
        short += judged.value is not None and judged.value < target.values[0]
        contradicted += judged.high < target.values[0]
    at = "" if prior is None else f" PRIOR={prior:g}"
    return (
        f"{spec + at:<27}{len(pairs) - len(cost):>4} of {len(pairs)} refused, {len(cost):>4} accepted: test below it "
        f"in {short}, contradicts it in {contradicted}" + (f"; {other} {np.mean(cost):.3f}" if cost else "")
    )


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--out", type=Path, help="a workspace with features and labels, instead of simulated rows")
    parser.add_argument("--target", type=float, nargs="+", default=[0.95], help="with --out: precision and recall")
    flags = parser.parse_args()
    with threadpool_limits(1):
        if flags.out:
            pairs = list(real(flags.out, flags.runs))
            for spec in (f"{kind}={target:g}" for target in flags.target for kind in ("precision", "recall")):
                print(judge(pairs, spec, None), flush=True)
        for case in () if flags.out else CASES:
            print(f"{case}: validation {ROWS // 10:,} rows, test {TRUTH:,}, the truth")
            pairs = list(simulated(case, flags.runs))
            for spec, prior in TARGETS:
                print("  " + judge(pairs, spec, prior), flush=True)


if __name__ == "__main__":
    main()
