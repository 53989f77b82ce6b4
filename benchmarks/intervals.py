"""How often the 95 % intervals of the project cover the truth, in simulation: `python -m benchmarks.intervals`.

Scores come from two normal distributions; a group shifts its scores, or tells the classes apart better or worse than
others. The truth is the mean of the same figure over five times 400,000 rows. First the figures of
heads/stats/metrics.py. Then those of many classes and of several labels (heads/stats/classes.py), from scores that are
higher where a row has the class; the truth is that of five times a million scores.
Then the calibration error where scores are probabilities and where they are not. Then the differences of paired.py
between HEADS heads and a baseline that see the same score, each through noise of its own and each surer than the last:
an interval alone, and all of them together. Then how often, of heads with the same expected log loss but the baseline
surer of itself, one is called better or worse, with the floor of paired.py and by the interval alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit, softmax

from extract.tables.task import UNKNOWN, Kind, Task
from heads.stats import classes, metrics, paired
from heads.stats.decision import DEFAULT, OperatingPoint
from heads.stats.metrics import Metric

# name: (rows, rows a group, share of positives, distance of the classes, sd of a group's shift, sd of its distance)
CASES = {
    "n=100": (100, 1, 0.5, 2.0, 0.0, 0.0),
    "n=200, nearly perfect": (200, 1, 0.5, 5.0, 0.0, 0.0),
    "n=1000": (1000, 1, 0.33, 2.0, 0.0, 0.0),
    "n=1000, rare positives": (1000, 1, 0.05, 2.0, 0.0, 0.0),
    "n=1000, 100 groups": (1000, 10, 0.33, 2.0, 0.7, 0.0),
    "n=500, 50 of uneven quality": (500, 10, 0.5, 2.0, 0.0, 1.5),
    "n=300, 30 groups": (300, 10, 0.5, 2.0, 0.7, 0.0),
    "n=3000": (3000, 1, 0.5, 2.0, 0.0, 0.0),
    "n=10000": (10_000, 1, 0.5, 2.0, 0.0, 0.0),
}
# name: (classes, rows, rows a group, share of the first class over the last's, distance, sd of a group's shift); the
# rows of a group have the same classes; a fifth of all labels is unknown
MANY = {
    "3 classes, n=150": (3, 150, 1, 1, 2.0, 0.0),
    "10 classes, n=1000": (10, 1000, 1, 1, 2.0, 0.0),
    "10 nearly perfect, n=300": (10, 300, 1, 1, 5.0, 0.0),
    "10, long tail, n=500": (10, 500, 1, 30, 3.0, 0.0),
    "10, n=1000 in 100 groups": (10, 1000, 10, 1, 3.0, 0.7),
    "10, tail, 1000 in 200 groups": (10, 1000, 5, 10, 3.0, 0.7),
    "50 classes, n=250": (50, 250, 1, 1, 4.0, 0.0),
    "50, long tail, n=2000": (50, 2000, 1, 30, 4.0, 0.0),
}
SEVERAL = {
    "3 labels, n=150": (3, 150, 1, 1, 2.0, 0.0),
    "10 labels, n=1000": (10, 1000, 1, 1, 2.0, 0.0),
    "10 nearly perfect, n=300": (10, 300, 1, 1, 5.0, 0.0),
    "10, long tail, n=500": (10, 500, 1, 30, 2.0, 0.0),
    "10, n=1000 in 100 groups": (10, 1000, 10, 3, 2.0, 0.7),
    "50, long tail, n=1000": (50, 1000, 1, 30, 3.0, 0.0),
}
HEADS = 8
# name: (sd of the log odds, noise of both heads in such sds); the true log odds are normal
SURER = {
    "hard, alike": (1.0, 0.5),
    "easier, alike": (3.0, 0.5),
    "easier, unlike": (3.0, 1.0),
    "easy, very alike": (8.0, 0.2),
    "easy, alike": (8.0, 0.5),
}
GROUPS = (5, 10, 20, 40, 60, 100)
Sample = tuple[np.ndarray, np.ndarray, np.ndarray]  # y, p and groups, (n,)


def draw(
    rng: np.random.Generator, rows: int, size: int, share: float, distance: float, shift: float, spread: float
) -> Sample:
    """Return y, p and groups of one data set."""
    groups = np.arange(rows) // size
    y = (rng.random(rows) < share).astype(np.int8)
    shifts, apart = shift * rng.normal(size=groups.max() + 1), distance + spread * rng.normal(size=groups.max() + 1)
    score = apart[groups] * (y - 0.5) + rng.normal(size=rows) + shifts[groups]
    return y, expit(1.5 * score), groups


def draw_labels(rng: np.random.Generator, rows: int, size: int, *shape: float) -> Sample:
    """Return a data set whose p, drawn as by `draw`, are the probabilities of y."""
    _, p, groups = draw(rng, rows, size, *shape)
    return (rng.random(rows) < p).astype(np.int8), p, groups


def too_sure(sample: Sample) -> Sample:
    """Return the data set with logits 2.5 times as far out and half too high."""
    y, p, groups = sample
    return y, expit(2.5 * logit(p) + 0.5), groups


def differences(rng: np.random.Generator, *shape: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows' differences in log loss and in accuracy between HEADS heads and a baseline, (n, HEADS) each."""
    y, p, groups = draw(rng, *shape)
    scores = logit(p)[:, None] + 0.6 * rng.normal(size=(len(y), HEADS + 1))
    p = expit(scores * np.linspace(0.7, 1.5, HEADS + 1))
    losses, hits = metrics.log_losses(y[:, None], p), ((p >= 0.5) == y[:, None]).astype(float)
    return losses[:, 1:] - losses[:, :1], hits[:, 1:] - hits[:, :1], groups


def large(rng: np.random.Generator, made: Callable[..., tuple], size: int, *shape: float) -> list[tuple]:
    """Return five data sets of 400,000 rows in groups of `size`, whose mean figures are taken for the truth."""
    return [made(rng, 400_000 // size * size, size, *shape) for _ in range(5)]


def figures(runs: int) -> None:
    """Print the share of runs in which each metric's interval covers the truth."""
    print(f"{'figures':<29}" + "".join(f"{name[:12]:>14}" for name in metrics.NAMES))
    for case, (rows, *shape) in CASES.items():
        rng = np.random.default_rng(0)
        many = [metrics.evaluate(*drawn, resamples=2) for drawn in large(rng, draw, *shape)]
        truth = {name: np.mean([found[name].value for found in many]) for name in metrics.NAMES}
        covered = dict.fromkeys(metrics.NAMES, 0)
        repeats = runs if rows < 3000 else runs // 4  # whose resamples take long
        for run in range(repeats):
            y, p, groups = draw(rng, rows, *shape)
            for name, found in metrics.evaluate(y, p, groups, seed=run).items():
                covered[name] += found.low <= truth[name] <= found.high
        shares = "".join(f"{covered[name] / repeats:>14.3f}" for name in metrics.NAMES)
        print(f"{case:<29}{shares}", flush=True)


def draw_classes(rng: np.random.Generator, kind: Kind, K: int, rows: int, *how: float) -> dict[str, Metric]:
    """Return the figures of one data set; how: the rest of MANY's and SEVERAL's cases."""
    size, ratio, distance, shift = how
    groups = np.arange(rows) // int(size)
    shares, task = ratio ** -np.linspace(0, 1, K), Task(kind, tuple(map(str, range(K))))
    shifts, noise = shift * rng.normal(size=(groups.max() + 1, K))[groups], rng.normal(size=(rows, K))
    if kind == "multiclass":
        y = rng.choice(K, groups.max() + 1, p=shares / shares.sum())[groups].astype(np.int16)
        p = softmax(distance * (y[:, None] == np.arange(K)) + shifts + noise, axis=1)
        return classes.figures(task, y, p, groups, OperatingPoint(DEFAULT, 0.0, {}))
    has = (rng.random((groups.max() + 1, K)) < 0.4 * shares)[groups]
    p = expit(1.5 * (distance * (has - 0.5) + shifts + noise))
    y = np.where(rng.random((rows, K)) < 0.2, UNKNOWN, has).astype(np.int8)
    return classes.figures(task, y, p, groups, OperatingPoint(DEFAULT, (0.5,) * K, {}))


def many_classes(runs: int) -> None:
    """Print the same of the figures of many classes and of several labels."""
    kinds: tuple[tuple[Kind, dict[str, tuple]], ...] = (("multiclass", MANY), ("multilabel", SEVERAL))
    for kind, cases in kinds:
        for case, (K, rows, *how) in cases.items():
            rng = np.random.default_rng(0)
            whole = [draw_classes(rng, kind, K, 1_000_000 // K, *how) for _ in range(5)]
            truth = {name: np.mean([found[name].value for found in whole]) for name in whole[0]}
            if case == next(iter(cases)):
                print(f"\n{kind:<29}" + "".join(f"{name[:13]:>14}" for name in truth))
            covered = dict.fromkeys(truth, 0)
            for _ in range(runs):
                for name, found in draw_classes(rng, kind, K, rows, *how).items():
                    covered[name] += found.low <= truth[name] <= found.high
            shares = "".join(f"{covered[name] / runs:>14.3f}" for name in truth)
            print(f"{case:<29}{shares}", flush=True)


def calibration(runs: int) -> None:
    """Print how often the calibration error's interval covers it; where it is 0, no interval can lie below it."""
    kinds: dict[str, Callable[..., Sample]] = {
        "probabilities": draw_labels,
        "too sure": lambda *how: too_sure(draw_labels(*how)),
        "of `figures`, too sure": lambda *how: too_sure(draw(*how)),
    }
    print(f"\n{'calibration error (truth)':<29}" + "".join(f"{kind:>26}" for kind in kinds))
    for case, (rows, *shape) in CASES.items():
        cells = []
        for kind, made in kinds.items():
            rng = np.random.default_rng(0)
            many = [] if kind == "probabilities" else large(rng, made, *shape)
            truth = np.mean([metrics.calibration_error(*drawn).value for drawn in many]) if many else 0.0
            found = [metrics.calibration_error(*made(rng, rows, *shape)) for _ in range(runs)]
            cells.append(f"{np.mean([m.low <= truth <= m.high for m in found]):.3f} ({truth:.3f})")
        print(f"{case:<29}" + "".join(f"{cell:>26}" for cell in cells), flush=True)


def pairs(runs: int) -> None:
    """Print how often the interval of a difference covers it: the mean over heads, the worst head, all at once."""
    names = ("log loss: mean", "worst", "all", "accuracy: mean", "worst", "all")
    print(f"\n{'differences of 8 heads':<29}" + "".join(f"{name:>16}" for name in names))
    for case, (rows, *shape) in CASES.items():
        rng = np.random.default_rng(0)
        many = large(rng, differences, *shape)
        truths = [np.mean([drawn[at].mean(axis=0) for drawn in many], axis=0) for at in (0, 1)]
        alone, together = np.zeros((2, HEADS)), np.zeros(2)
        for _ in range(runs):
            *both, groups = differences(rng, rows, *shape)
            for at, (rows_of, truth) in enumerate(zip(both, truths, strict=True)):
                found = np.array([paired.difference(column, groups, HEADS) for column in rows_of.T])
                alone[at] += (found[:, 1] <= truth) & (truth <= found[:, 2])
                together[at] += ((found[:, 3] <= truth) & (truth <= found[:, 4])).all()
        alone, together = alone / runs, together / runs
        shares = [x for at in (0, 1) for x in (alone[at].mean(), alone[at].min(), together[at])]
        print(f"{case:<29}" + "".join(f"{share:>16.3f}" for share in shares), flush=True)


def scores(rng: np.random.Generator, rows: int, sd: float, noise: float, heads: int) -> tuple[np.ndarray, np.ndarray]:
    """Return y (n,), and what each head sees of the true log odds, (n, heads)."""
    truth = sd * rng.normal(size=rows)
    y = (rng.random(rows) < expit(truth)).astype(np.int8)
    return y, truth[:, None] + sd * noise * rng.normal(size=(rows, heads))


def equally_good(sd: float, noise: float) -> tuple[float, float]:
    """Return two scales of the scores with the same expected log loss: half above the best, and the one below it."""
    y, seen = scores(np.random.default_rng(0), 400_000, sd, noise, 1)

    def loss(scale: float) -> float:
        return float(metrics.log_losses(y, expit(scale * seen[:, 0])).mean())

    best = min(np.geomspace(0.01, 2, 60), key=loss)
    return 1.5 * best, brentq(lambda scale: loss(scale) - loss(1.5 * best), 1e-4, best)


def verdicts(runs: int) -> None:
    """Print how often any of `heads` heads as good as a surer baseline is called better or worse in log loss."""
    print(f"\n{'better or worse (no floor)':<29}" + "".join(f"{f'{n} groups':>16}" for n in GROUPS))
    for heads in (1, 2):
        for case, (sd, noise) in SURER.items():
            rng, (sure, unsure) = np.random.default_rng(0), equally_good(sd, noise)
            cells = []
            for n in GROUPS:
                shares = np.zeros(2)
                for _ in range(runs):
                    y, seen = scores(rng, n, sd, noise, 1 + heads)
                    shares += np.array(called(y, expit(seen * np.r_[sure, np.full(heads, unsure)]))) / runs
                cells.append("{1:.3f} ({0:.3f})".format(*shares))
            print(f"{f'{heads} of them, {case}':<29}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def called(y: np.ndarray, p: np.ndarray) -> tuple[bool, bool]:
    """Whether any head is called better or worse than the first of p (n, 1 + heads): by interval alone, with floor."""
    losses, groups, heads = [metrics.log_losses(y, column) for column in p.T], np.arange(len(y)), p.shape[1] - 1
    found = [
        paired.Difference(
            *("", "", "", "log_loss"),
            *paired.difference(losses[at] - losses[0], groups, heads),
            *(heads, len(y), len(y), int(((p[:, at] >= 0.5) != (p[:, 0] >= 0.5)).sum())),
        )
        for at in range(1, 1 + heads)
    ]
    alone = any(not each.corrected_low <= 0 <= each.corrected_high for each in found)
    return alone, any(each.verdict in ("better", "worse") for each in found)


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    chance = 2 * np.sqrt(0.0475 / np.array([runs, runs // 4]))
    print(
        f"{runs:,} runs a case, but {runs // 4} of figures from n = 3000 on; "
        f"chance alone moves a share by {chance[0]:.3f} and {chance[1]:.3f}"
    )
    figures(runs)
    many_classes(runs)
    calibration(runs)
    pairs(runs)
    verdicts(2 * runs)


if __name__ == "__main__":
    main()
