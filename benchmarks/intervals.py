"""How often the 95 % intervals of heads/metrics.py cover the truth, in simulation: `python -m benchmarks.intervals`.

Scores come from two normal distributions; a group shifts its scores, or tells the classes apart better or worse than
others. The truth is the same figure on 400,000 rows of the same distribution.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import expit

from heads import metrics

# name: (rows, rows a group, share of positives, distance of the classes, sd of a group's shift, sd of its distance)
CASES = {
    "n=100": (100, 1, 0.5, 2.0, 0.0, 0.0),
    "n=200, nearly perfect": (200, 1, 0.5, 5.0, 0.0, 0.0),
    "n=1000": (1000, 1, 0.33, 2.0, 0.0, 0.0),
    "n=1000, rare positives": (1000, 1, 0.05, 2.0, 0.0, 0.0),
    "n=1000, 100 groups": (1000, 10, 0.33, 2.0, 0.7, 0.0),
    "n=500, 50 of uneven quality": (500, 10, 0.5, 2.0, 0.0, 1.5),
    "n=300, 30 groups": (300, 10, 0.5, 2.0, 0.7, 0.0),
}


def draw(
    rng: np.random.Generator, rows: int, size: int, share: float, distance: float, shift: float, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y, p and groups of one data set."""
    groups = np.arange(rows) // size
    y = (rng.random(rows) < share).astype(np.int8)
    shifts, apart = shift * rng.normal(size=groups.max() + 1), distance + spread * rng.normal(size=groups.max() + 1)
    score = apart[groups] * (y - 0.5) + rng.normal(size=rows) + shifts[groups]
    return y, expit(1.5 * score), groups


def main() -> None:
    """Print the share of runs in which each metric's interval covers the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print(f"{'case':<29}" + "".join(f"{name[:12]:>14}" for name in metrics.NAMES))
    for case, (rows, *shape) in CASES.items():
        rng = np.random.default_rng(0)
        truth = metrics.evaluate(*draw(rng, 400_000 // shape[0] * shape[0], *shape), resamples=2)
        covered = dict.fromkeys(metrics.NAMES, 0)
        for run in range(runs):
            y, p, groups = draw(rng, rows, *shape)
            for name, found in metrics.evaluate(y, p, groups, seed=run).items():
                covered[name] += found.low <= truth[name].value <= found.high
        print(f"{case:<29}" + "".join(f"{covered[name] / runs:>14.3f}" for name in metrics.NAMES), flush=True)


if __name__ == "__main__":
    main()
