"""Is a head better? Differences between heads on the same rows, by group, corrected for how many are looked at.

Heads are scored on the same images, so the interval of their difference is that of the row-by-row differences, far
narrower than their own two would suggest. Log loss and accuracy are means, so the standard error that a bootstrap of
groups converges to has a closed form (the linearised variance over groups), and no resample is drawn. The quantile is
Student's t with Satterthwaite's degrees of freedom, at most G - 1, and is Bonferroni's for the number of differences
looked at, so that all of a split's intervals hold together in 95 %. In simulation (benchmarks/intervals.py) this
covers as well as the studentised max-t bootstrap of Romano & Wolf 2005, at the same width.

An interval of few groups is not to be trusted where losses are skewed: of two equally good heads the surer one wins a
little on most rows and loses much on rare ones, which few rows may not hold. So a verdict needs `floor` independent
groups, and as many that the two decide differently. In simulation (benchmarks/intervals.py, five kinds of equally good
heads, 5 to 100 groups, 2,000 runs each) the interval alone was wrong in up to 15 % of runs, most with 10 to 20 groups;
with the floor in none with 10 and at most 5.6 % with 100, chance being 1 %.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import t as student

from heads.stats import metrics

REFERENCES = ("logistic", "sigmoid-long")  # what a claim of improvement is held against
METRICS = ("log_loss", "accuracy")  # the first is what heads are chosen by


@dataclass(frozen=True)
class Difference:
    """head's figure minus the reference's, on the same n rows of `groups` groups; below 0 is better in log_loss.

    differing: groups in which the two decide differently, for at least one row.
    low, high: 95 % interval of this difference alone; corrected_*: such that those of all `looked_at` hold together.
    """

    split: str
    head: str
    against: str
    metric: str
    value: float
    low: float
    high: float
    corrected_low: float
    corrected_high: float
    looked_at: int
    n: int
    groups: int
    differing: int

    def to_json(self) -> dict[str, str | float]:
        """Return the difference as comparison.json holds it."""
        return {**asdict(self), "verdict": self.verdict}

    @property
    def verdict(self) -> str:
        """What interval and n allow to say: "better", "worse", "cannot tell", or "too few" for an n under `floor`."""
        least = floor(self.looked_at)
        if self.groups < least:
            return "too few"
        if self.corrected_low <= 0 <= self.corrected_high:
            return "cannot tell"
        if self.differing < least:
            return "too few"
        return "better" if (self.value < 0) == (self.metric == "log_loss") else "worse"


def floor(looked_at: int) -> int:
    """Return how many groups, and groups decided differently, a verdict needs: 12 for one difference, 20 for 18.

    An exact sign test needs half as many at least: n that all speak for one head have a two-sided p of 2^(1 - n), to be
    under 5 % / looked_at. Twice that, since the interval is no exact test and needs some to speak for the other head.
    """
    return 2 * math.ceil(1 + math.log2(looked_at / (1 - metrics.LEVEL)))


def difference(rows: np.ndarray, groups: np.ndarray, looked_at: int) -> tuple[float, float, float, float, float]:
    """Return the mean of rows' differences (n,), its 95 % interval, and that corrected for the number looked at.

    groups: (n,) integers. Rows that never differ are no certainty, nor is one group: the standard error is then 1 / G,
    as if a group had differed by 1.
    """
    value, error, df, g = metrics.mean(rows, groups)
    error = error if error > 1e-12 else 1 / g
    alone, together = student.ppf(1 - (1 - metrics.LEVEL) / 2 / np.array([1, looked_at]), df)
    low, high, corrected_low, corrected_high = value + error * np.array([-alone, alone, -together, together])
    return value, float(low), float(high), float(corrected_low), float(corrected_high)


def sentence(differences: list[Difference], chosen: str) -> str:
    """Say whether the chosen head is better than each reference: from test where there is one, in log loss."""
    split = "test" if any(each.split == "test" for each in differences) else "validation"
    of_chosen = [d for d in differences if (d.split, d.head, d.metric) == (split, chosen, METRICS[0])]
    itself = f"{chosen} is itself a baseline. " if chosen in REFERENCES else ""
    if not of_chosen:
        others = " or ".join(name for name in REFERENCES if name != chosen)
        return f"{itself}Whether {chosen} is better cannot be said without {others} on these rows"
    first = of_chosen[0]
    claims = "; ".join(
        f"{_claim(d)}: log loss {d.value:+.3f} [{d.corrected_low:+.3f}, {d.corrected_high:+.3f}]" for d in of_chosen
    )
    corrected = f", corrected for {first.looked_at} differences" if first.looked_at > 1 else ""
    n = f"n = {first.n:,}, {first.groups:,} independent groups"
    return f"{itself}Paired on {split}, {claims} (95 %{corrected}; {n})"


def _claim(d: Difference) -> str:
    if d.verdict in ("better", "worse"):
        return f"{d.head} is {d.verdict} than {d.against}"
    claim = f"no clear difference between {d.head} and {d.against}"
    if d.verdict == "too few":
        claim += f", n too small: {d.differing:,} of {d.groups:,} independent groups are decided differently; "
        claim += f"a verdict needs {floor(d.looked_at)} of each"
    return claim
