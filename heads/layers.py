"""A trained head as plain arrays: dense layers that NumPy can run, a bundle can store and an export can rebuild."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

ROWS = 8192  # rows looked at together: bounds the memory of a pass over X
ACTIVATIONS = {"sigmoid": expit}


@dataclass(frozen=True)
class Dense:
    """y = activation(x @ kernel + bias). kernel: float32 (d, units); bias: float32 (units,)."""

    kernel: np.ndarray
    bias: np.ndarray
    activation: str


def forward(layers: list[Dense], X: np.ndarray) -> np.ndarray:
    """Return the probability of class 1 for each row of X (n, D): float64 (n,)."""
    for layer in layers:
        X = ACTIVATIONS[layer.activation]((X @ layer.kernel + layer.bias).astype(np.float64))
    return X[:, 0]


def standardisation(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and scale of each column of X (n, D), float64 (D,).

    The scale of a column that is constant to float32 is 1. Memory: one block of rows.
    """
    total, squares = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for start in range(0, len(X), ROWS):
        block = X[start : start + ROWS].astype(np.float64)
        total += block.sum(axis=0)
        squares += (block**2).sum(axis=0)
    mean = total / len(X)
    variance = np.maximum(squares / len(X) - mean**2, 0)
    return mean, np.where(variance > 1e-10 * np.maximum(1, mean**2), np.sqrt(variance), 1.0)


def standardise(X: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return (X - mean) / scale as a new float32 array, without a second temporary of X's size."""
    Z = np.subtract(X, mean.astype(np.float32), dtype=np.float32)
    Z *= (1 / scale).astype(np.float32)
    return Z


def fold(coefficients: np.ndarray, intercept: float, mean: np.ndarray, scale: np.ndarray) -> Dense:
    """Turn a logistic model of standardised features into one of raw features. coefficients: (D,)."""
    kernel = coefficients.astype(np.float64) / scale
    bias = float(intercept) - float(kernel @ mean)
    return Dense(kernel[:, None].astype(np.float32), np.array([bias], np.float32), "sigmoid")
