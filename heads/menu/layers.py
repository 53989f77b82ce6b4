"""A trained head as plain arrays that a bundle can store: dense layers, which an export can rebuild, or neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit

ROWS = 8192  # rows looked at together: bounds the memory of a pass over X
ACTIVATIONS = {"sigmoid": expit, "relu": lambda x: np.maximum(x, 0), "linear": lambda x: x, "exponential": np.exp}


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
    """Votes of the k nearest rows by cosine. rows: float32 (m, D) of length 1; labels: int8 (m,) of 0 and 1."""

    rows: np.ndarray
    labels: np.ndarray
    k: int

    def probability(self, X: np.ndarray) -> np.ndarray:
        """Return the smoothed share of class 1 among each row's neighbours: float64 (n,), NaN for a row with a NaN.

        Memory: ROWS rows of X at a time.
        """
        p = np.full(len(X), np.nan)
        finite = np.flatnonzero(np.isfinite(X).all(axis=1))
        for start in range(0, len(finite), ROWS):
            at = finite[start : start + ROWS]
            p[at] = smoothed(self.labels[nearest(self.rows, unit(X[at]), self.k)].sum(axis=1), self.k)
        return p


Model = list[Dense] | Neighbours


def forward(model: Model, X: np.ndarray) -> np.ndarray:
    """Return the probability of class 1 for each row of X (n, D): float64 (n,)."""
    if isinstance(model, Neighbours):
        return model.probability(X)
    for layer in model:
        X = unit(X) if layer.unit else X
        X = ACTIVATIONS[layer.activation]((X @ layer.kernel + layer.bias).astype(np.float64))
    return X[:, 0]


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


def smoothed(votes: np.ndarray, k: int | np.ndarray) -> np.ndarray:
    """Return (votes + 1) / (k + 2), Laplace's rule of succession: never 0 or 1, however few the neighbours."""
    return (votes + 1) / (k + 2)


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
