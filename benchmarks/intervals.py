"""How often the 95 % intervals of heads/metrics.py cover the truth, in simulation: `python benchmarks/intervals.py`.

Scores come from two normal distributions with a random effect a group; the truth is the same figure on 400,000 rows of
the same distribution. A nominal 95 % interval should cover in 93 to 97 % of the runs.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.special import expit

from heads import metrics

# name: (rows, rows a group, share of positives, distance of the classes, standard deviation of the group effect)
CASES = {
    "n=100": (100, 1, 0.5, 2.0, 0.0),
    "n=200, nearly perfect": (200, 1, 0.5, 5.0, 0.0),
    "n=1000": (1000, 1, 0.33, 2.0, 0.0),
    "n=1000, rare positives": (1000, 1, 0.05, 2.0, 0.0),
    "n=1000, 100 groups": (1000, 10, 0.33, 2.0, 0.7),
    "n=300, 30 groups": (300, 10, 0.5, 2.0, 0.7),
}


def draw(
    rng: np.random.Generator, rows: int, size: int, share: float, distance: float, effect: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return y, p and groups of one data set."""
    groups = np.arange(rows) // size
    y = (rng.random(rows) < share).astype(np.int8)
    score = distance * (y - 0.5) + rng.normal(size=rows) + effect * rng.normal(size=groups.max() + 1)[groups]
    return y, expit(1.5 * score), groups


def main() -> None:
    """Print the share of runs in which each metric's interval covers the truth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    print(f"{'case':<24}" + "".join(f"{name[:12]:>14}" for name in metrics.NAMES))
    for case, (rows, *shape) in CASES.items():
        rng = np.random.default_rng(0)
        truth = metrics.evaluate(*draw(rng, 400_000 // shape[0] * shape[0], *shape), resamples=2)
        covered = dict.fromkeys(metrics.NAMES, 0)
        for run in range(runs):
            y, p, groups = draw(rng, rows, *shape)
            for name, found in metrics.evaluate(y, p, groups, seed=run).items():
                covered[name] += found.low <= truth[name].value <= found.high
        print(f"{case:<24}" + "".join(f"{covered[name] / runs:>14.3f}" for name in metrics.NAMES), flush=True)


if __name__ == "__main__":
    main()
