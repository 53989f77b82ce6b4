"""A trained head as plain arrays that a bundle can store: dense layers, which an export can rebuild, or neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, softmax

from extract.tables.task import UNKNOWN

ROWS = 8192  # rows looked at together: bounds the memory of a pass over X
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sigmoid": expit,
    "softmax": lambda x: softmax(x, axis=1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
    "exponential": np.exp,
}


@dataclass(frozen=True)
class Dense:
    """y = activation(x @ kernel + bias). kernel: float32 (d, units); bias: float32 (units,).

    unit: each row of x is brought to length 1 first.
    """

    kernel: np.ndarray
    bias: np.ndarray
    activation: str
    unit: bool = False


@dataclass(frozen=True)
class Neighbours:
    """Votes of the k nearest rows by cosine. rows: float32 (m, D) of length 1; labels: y of a task, (m,) or (m, K).

    columns: of the task, K but for two classes.
    """

    rows: np.ndarray
    labels: np.ndarray
    k: int
    columns: int = 1

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Return the smoothed share among each row's neighbours: of class 1 float64 (n,), or of each class or label.

        That is (n, K); NaN for a row with a NaN. Memory: ROWS rows of X at a time.
        """
        p = np.full(len(X) if self.columns == 1 and self.labels.ndim == 1 else (len(X), self.columns), np.nan)
        finite = np.flatnonzero(np.isfinite(X).all(axis=1))
        for start in range(0, len(finite), ROWS):
            at = finite[start : start + ROWS]
            p[at] = votes(self.labels, nearest(self.rows, unit(X[at]), self.k), self.columns)
        return p


Model = list[Dense] | Neighbours


def forward(model: Model, X: np.ndarray) -> np.ndarray:
    """Return each row's probabilities for X (n, D): float64 (n, K), or (n,) where the last layer has one unit."""
    if isinstance(model, Neighbours):
        return model.probability(X)
    for layer in model:
        X = unit(X) if layer.unit else X
        X = ACTIVATIONS[layer.activation]((X @ layer.kernel + layer.bias).astype(np.float64))
    return X[:, 0] if X.shape[1] == 1 else X


def unit(X: np.ndarray) -> np.ndarray:
    """Return the rows of X (n, D) at length 1, float32; a row of zeros stays one."""
    length = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))[:, None]  # without a temporary of X's size
    return (X / np.maximum(length, np.finfo(np.float32).tiny).astype(np.float32)).astype(np.float32, copy=False)


def nearest(rows: np.ndarray, X: np.ndarray, k: int) -> np.ndarray:
    """Return the k rows (m, D) nearest to each row of X (n, D), nearest first: int (n, k).

    Both of length 1, where the order by Euclidean distance is that by cosine; distances are float64, so that a batch
    and one row alone find the same. Memory: scikit-learn's, a few megabytes beside both.
    """
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors(X, return_distance=False)


def votes(labels: np.ndarray, near: np.ndarray, columns: int) -> np.ndarray:
    """Return the smoothed shares of labels (m,) or (m, K) among the rows near (n, k): float64 (n,) or (n, K).

    Laplace's rule of succession: (votes + 1) / (k + 2) of two classes, (votes + 1) / (k + K) of K, and for each of
    several labels over the rows that know it; never 0 or 1, however few the neighbours.
    """
    n, k = near.shape
    if labels.ndim == 2:
        each = (labels[:, column][near] for column in range(columns))
        return np.stack([((y == 1).sum(axis=1) + 1) / ((y != UNKNOWN).sum(axis=1) + 2) for y in each], axis=1)
    if columns == 1:
        return (labels[near].sum(axis=1) + 1) / (k + 2)
    cells = np.arange(n)[:, None] * columns + labels[near]
    return (np.bincount(cells.ravel(), minlength=n * columns).reshape(n, columns) + 1) / (k + columns)


def standardisation(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale of each column of X (n, D), float64 (D,).

    The scale of a column that is constant to float32 is 1. Memory: one block of rows.
    """
    total, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for start in range(0, len(X), ROWS // 8):
        block = X[start : start + ROWS // 8].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(X)
    variance = np.maximum(squares / len(X) - mean**2, 0)
    return mean, np.where(variance > 1e-10 * np.maximum(1, mean**2), np.sqrt(variance), 1.0)


def standardise(X: np.ndarray, mean: np.ndarray, scale: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return (X - mean) / scale as a new float32 array or in `out`, without a second temporary of X's size."""
    Z = np.subtract(X, mean.astype(np.float32), out=out, dtype=np.float32)
    Z *= (1 / scale).astype(np.float32)
    return Z


def fold(layer: Dense, mean: np.ndarray, scale: np.ndarray) -> Dense:
    """Turn a layer on standardised features, float32 or float64, into one on raw features, or raw ones at length 1.

    mean, scale: (D,), of what the layer multiplies.
    """
    kernel = layer.kernel.astype(np.float64) / scale[:, None]
    bias = layer.bias - mean @ kernel
    return replace(layer, kernel=kernel.astype(np.float32), bias=bias.astype(np.float32))
