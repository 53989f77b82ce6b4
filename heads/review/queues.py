"""The order of pictures in each queue. A queue is an array of row numbers. status: int8 (n,), of each row."""

from __future__ import annotations

import numpy as np

from heads.review.ranking import Ranking

QUEUES = ("suspects", "copies", "near", "unlabelled", "control")
OPEN, SKIPPED, DECIDED = 0, 1, 2  # status of a row

Orders = dict[str, np.ndarray]  # by the queue's name


def fixed(values: np.ndarray, sha256: np.ndarray, of: dict[str, list[int]]) -> Orders:
    """Return the queues before the first ranking.

    values: str (n,), the table's own labels. of: the rows of each digest.
    """
    labelled, rows = values != "", np.arange(len(values))
    opposite = [row for copies in of.values() if len({*values[copies].tolist()} - {""}) == 2 for row in copies]
    random = np.argsort(sha256, kind="stable")  # as good as random, and stable as the table grows
    return {
        "suspects": rows[labelled],
        "copies": np.array(opposite, np.int64),
        "unlabelled": rows[~labelled],
        "control": random[labelled[random]],
    }


def ranked(before: Orders, picture: np.ndarray, y: np.ndarray, ranking: Ranking) -> Orders:
    """Sort suspects and unlabelled rows by the heads' predictions; add near-duplicates once they are known.

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
    """Return the rows of clusters with several pictures, those with both labels first. All arrays: int (n,)."""
    pairs = np.unique(cluster.astype(np.int64) * len(picture) + picture) // len(picture)
    several = np.bincount(pairs, minlength=cluster.max() + 1) > 1
    both = np.logical_and(*(np.bincount(cluster, weights=y == value) > 0 for value in (0, 1)))
    rows = np.flatnonzero(several[cluster])
    return rows[np.lexsort((cluster[rows], ~both[cluster[rows]]))]


def waiting(order: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Return the open rows of a queue in order, then the skipped ones."""
    return np.concatenate([order[status[order] == OPEN], order[status[order] == SKIPPED]])


def progress(order: np.ndarray, status: np.ndarray) -> dict[str, int]:
    """Count a queue's decided rows and the others."""
    done = int((status[order] == DECIDED).sum())
    return {"open": len(order) - done, "done": done}


def sampled(order: np.ndarray, status: np.ndarray) -> np.ndarray:
    """Return the decided rows that stand before a queue's first open row."""
    begun = order[: int(np.argmax(np.r_[status[order], OPEN] == OPEN))]
    return begun[status[begun] == DECIDED]
