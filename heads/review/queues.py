"""The order of pictures in each queue. A queue is an array of row numbers. status: int8 (n,), of each row."""

from __future__ import annotations

import numpy as np

from extract.tables.task import UNKNOWN, Task
from heads.review.ranking import Ranking

QUEUES = ("suspects", "pairs", "copies", "near", "unlabelled", "control")
OPEN, SKIPPED, DECIDED = 0, 1, 2  # status of a row

Orders = dict[str, np.ndarray]  # by the queue's name


def fixed(values: np.ndarray, sha256: np.ndarray, of: dict[str, list[int]]) -> Orders:
    """Return the queues before the first ranking.

    values: str (n,), the table's own labels. of: the rows of each digest.
    """
    labelled, rows = values != "", np.arange(len(values))
    opposite = [row for copies in of.values() if len({*values[copies].tolist()} - {""}) > 1 for row in copies]
    random = np.argsort(sha256, kind="stable")  # as good as random, and stable as the table grows
    return {
        "suspects": rows[labelled],
        "copies": np.array(opposite, np.int64),
        "unlabelled": rows[~labelled],
        "control": random[labelled[random]],
    }


def ranked(before: Orders, picture: np.ndarray, task: Task, y: np.ndarray, ranking: Ranking) -> Orders:
    """Sort suspects and unlabelled rows by the heads' predictions; add near-duplicates once they are known.

    before: from `fixed`. picture: int (n,), the same for copies. y: as the task has it.
    """
    suspects, unlabelled = before["suspects"], before["unlabelled"]
    suspects = suspects[np.argsort(-ranking.suspicion[suspects], kind="stable")]
    pairs = {"pairs": confused(suspects, y, ranking.says)} if task.kind == "multiclass" else {}
    near = {} if ranking.cluster is None else {"near": clustered(ranking.cluster, _numbers(task, y), picture)}
    return {
        **before,
        "suspects": suspects,
        "unlabelled": unlabelled[np.argsort(_sureness(task, ranking)[unlabelled], kind="stable")],
        **pairs,
        **near,
    }


def _sureness(task: Task, ranking: Ranking) -> np.ndarray:
    """Return how sure the heads are of each row, (n,): of several labels, of the one that they are least sure of."""
    p = ranking.p
    return np.abs(p - 0.5) if task.kind == "binary" else task.certainty(p, ranking.says)


def _numbers(task: Task, y: np.ndarray) -> np.ndarray:
    """Number what rows are labelled, int (n,): the same for the same labels, UNKNOWN for none."""
    numbers = np.unique(y, axis=0, return_inverse=True)[1].reshape(-1)
    return np.where(task.labelled(y), numbers, UNKNOWN)


def confused(suspects: np.ndarray, y: np.ndarray, says: np.ndarray) -> np.ndarray:
    """Return the suspects whose label is another class than the heads say, the most frequent pair of these first.

    y, says: int (n,). Pictures of a pair stand together, in the order of suspects.
    """
    rows = suspects[(y != says)[suspects] & (y != UNKNOWN)[suspects]]
    _, first, pair, counts = np.unique(
        np.stack([y, says])[:, rows], axis=1, return_index=True, return_inverse=True, return_counts=True
    )
    pair = pair.reshape(-1)
    return rows[np.lexsort((np.arange(len(rows)), first[pair], -counts[pair]))]


def clustered(cluster: np.ndarray, y: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Return the rows of clusters with several pictures, those with several labels first. All arrays: int (n,)."""

    def several(rows: np.ndarray, number: np.ndarray) -> np.ndarray:
        pairs = np.unique(np.stack([cluster[rows], number[rows]]), axis=1)[0]
        return np.bincount(pairs, minlength=cluster.max() + 1) > 1

    pictures, labels = several(np.arange(len(y)), picture), several(np.flatnonzero(y != UNKNOWN), y)
    rows = np.flatnonzero(pictures[cluster])
    return rows[np.lexsort((cluster[rows], ~labels[cluster[rows]]))]


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
