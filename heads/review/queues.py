"""The order in which pictures come up, queue by queue. A queue is an array of row numbers; status: int8 of each row."""

from __future__ import annotations

import numpy as np

from heads.review.ranking import Ranking

QUEUES = ("suspects", "copies", "near", "unlabelled", "control")
OPEN, SKIPPED, DECIDED = 0, 1, 2  # status of a row

Orders = dict[str, np.ndarray]  # by the queue's name


def fixed(values: np.ndarray, sha256: np.ndarray, of: dict[str, list[int]]) -> Orders:
    """Return the queues before the first ranking; the table's own labels, values str (n,), decide what is in them.

    of: the rows of each digest.
    """
    labelled, rows = values != "", np.arange(len(values))
    opposite = [row for copies in of.values() if len({*values[copies].tolist()} - {""}) == 2 for row in copies]
    random = np.argsort(sha256, kind="stable")  # digests are as good as random, and stay as the table grows
    return {
        "suspects": rows[labelled],
        "copies": np.array(opposite, np.int64),
        "unlabelled": rows[~labelled],
        "control": random[labelled[random]],
    }


def ranked(before: Orders, picture: np.ndarray, y: np.ndarray, ranking: Ranking) -> Orders:
    """Sort suspects and the unlabelled by what heads say; add the clusters of near-duplicates once they are known.

    before: from `fixed`. picture: int (n,), the same for copies.
    """
    suspects, unlabelled = before["suspects"], before["unlabelled"]
    near = {} if ranking.cluster is None else {"near": clustered(ranking.cluster, y, picture)}
    return {
        **before,
        "suspects": suspects[np.argsort(-ranking.suspicion[suspects], kind="stable")],
        "unlabelled": unlabelled[np.argsort(np.abs(ranking.p[unlabelled] - 0.5), kind="stable")],
        **near,
    }


def clustered(cluster: np.ndarray, y: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the rows of clusters that hold more than one picture, those with both labels first. All: int (n,)."""
    pairs = np.unique(cluster.astype(np.int64) * len(picture) + picture) // len(picture)
    several = np.bincount(pairs, minlength=cluster.max() + 1) > 1
    both = np.logical_and(*(np.bincount(cluster, weights=y == value) > 0 for value in (0, 1)))
    rows = np.flatnonzero(several[cluster])
    return rows[np.lexsort((cluster[rows], ~both[cluster[rows]]))]


def waiting(order: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Return the rows of a queue without an answer, in order, then those that were skipped."""
    return np.concatenate([order[status[order] == OPEN], order[status[order] == SKIPPED]])


def progress(order: np.ndarray, status: np.ndarray) -> dict[str, int]:
    """Count a queue's rows with and without an answer."""
    done = int((status[order] == DECIDED).sum())
    return {"open": len(order) - done, "done": done}


def sampled(order: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Return the answered rows of a queue's longest beginning without an open row; skipped rows are left out."""
    begun = order[: int(np.argmax(np.r_[status[order], OPEN] == OPEN))]
    return begun[status[begun] == DECIDED]
