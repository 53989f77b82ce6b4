"""Make a head's probabilities mean what they say: a map of its logits, fitted on rows that the fit never saw.

The head is refitted on grouped folds inside train; its out-of-fold logits, pooled, fit the map, which is put on the
head's own fit on all of train. So no row that a fit saw is calibrated on, and validation is left to choose by. The map
becomes layers: a scale and shift folds into the last one, isotonic regression is three small layers after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.linalg import block_diag
from scipy.optimize import minimize
from scipy.special import expit, logit, logsumexp, softmax
from sklearn.isotonic import IsotonicRegression

from extract.ground.errors import HeadError
from extract.tables.task import UNKNOWN, Task
from heads.menu.head import Context, Head
from heads.menu.layers import Dense, forward
from heads.menu.search import TOO_FEW, folds_for

METHODS = ("temperature", "platt", "isotonic")
ISOTONIC_ROWS = 1000  # under which isotonic regression overfits (Niculescu-Mizil & Caruana 2005)
KNOTS = 32  # of isotonic's map, at most
STEEPEST = 20.0  # slope of that map: float32 engines differ by 1e-6 in a logit, parity allows 1e-4 of a probability


def check(method: str | None, task: Task) -> None:
    """Refuse what cannot be asked of a task. Errors: HeadError."""
    if method == "isotonic" and task.kind == "multiclass":
        raise HeadError(
            "isotonic-multiclass",
            f"Isotonic calibration was asked for with {len(task.classes)} classes",
            rule="It maps one probability at a time, so those of several classes would no longer sum to 1",
            then="Use CALIBRATE=temperature or platt",
        )


def wrap(head: Head, method: str, seed: int) -> tuple[Head, list[str]]:
    """Return the head with a calibration around it, or as it is and why."""
    why = head.uncalibrated
    return (head, [f"not calibrated: {why}"]) if why else (Calibrated(head, method, seed), [])


class Calibrated(Head):
    """Any head of layers, and a map of METHODS on its logits. Time: up to FOLDS more fits of the head."""

    def __init__(self, head: Head, method: str, seed: int = 0) -> None:
        self.head, self.method, self.seed, self.task = head, method, seed, head.task

    def prepare(self) -> None:
        self.head.prepare()

    def notes(self) -> list[str]:
        return [*self.head.notes(), f"calibration: {self.training_['calibration']}"]

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        """Fit the map on out-of-fold logits, and the head on all rows. Errors: HeadError where isotonic has too few."""
        if self.method == "isotonic" and len(y) < ISOTONIC_ROWS:
            raise HeadError(
                "isotonic-too-few-rows",
                f"Isotonic calibration was asked for with {len(y):,} rows in train",
                rule=f"It overfits below {ISOTONIC_ROWS:,}",
                then="Use CALIBRATE=platt or temperature",
            )
        check(self.method, self.task)
        folds = folds_for(self.task, y, context.groups, self.seed)
        scores = np.empty((len(y), self.task.columns))
        for rest, held_out in folds:
            self.head.fit(X[rest], y[rest], groups=context.groups[rest], validation=context.validation)
            scores[held_out] = logits(self.head.layers_, X[held_out]).reshape(len(held_out), -1)
        self.head._fit(X, y, context)
        self.layers_, self.training_ = self.head.layers_, {**self.head.training_, "calibration": TOO_FEW}
        if folds:
            self.layers_, facts = self._calibrate(self.layers_, scores, y)
            self.training_ |= {"calibration": f"{self.method}, {len(folds)} folds by group", **facts}

    def _calibrate(
        self, layers: list[Dense], scores: np.ndarray, y: np.ndarray
    ) -> tuple[list[Dense], dict[str, object]]:
        """Put the map on layers; scores: logits (n, K). A label is calibrated on the rows that know it."""
        if self.method == "isotonic":
            knots = [isotonic(column[known], labels[known]) for column, labels, known in _columns(scores, y)]
            facts = {"knots": _one([[x.tolist(), z.tolist()] for x, z in knots])}
            return interpolated(layers, knots), facts
        slope, shift = calibrated(self.task, scores, y, self.method)
        last = layers[-1]
        kernel, bias = slope * last.kernel.astype(np.float64), slope * last.bias.astype(np.float64) + shift
        folded = replace(last, kernel=kernel.astype(np.float32), bias=bias.astype(np.float32))
        return [*layers[:-1], folded], {"slope": _one(slope.tolist()), "shift": _one(shift.tolist())}


def _one(values: list[Any]) -> Any:
    return values[0] if len(values) == 1 else values


def _columns(scores: np.ndarray, y: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield logits (n,), labels (n,) of 0 and 1, and which rows know them, of each label."""
    for column, labels in zip(scores.T, y.reshape(len(y), -1).T, strict=True):
        yield column, labels, labels != UNKNOWN


def calibrated(task: Task, scores: np.ndarray, y: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and shift (K,) of logits (n, K), by temperature or Platt.

    Of several classes the slope is one for all, the shift one a class; Platt's smoothed targets leave the other classes
    equal shares.
    """
    if task.kind == "multiclass":
        return _multinomial(scores, y, shifted=method == "platt")
    each = (
        (temperature(column[known], labels[known]), 0.0)
        if method == "temperature"
        else platt(column[known], labels[known])
        for column, labels, known in _columns(scores, y)
    )
    slope, shift = np.array(list(each)).T
    return slope, shift


def _multinomial(scores: np.ndarray, y: np.ndarray, shifted: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the slope, (K,) times the same, and shifts (K,) under a softmax with the lowest log loss on y (n,)."""
    n, K = scores.shape
    scale = max(float(np.abs(scores).max()), 1e-12)
    other = 1 / (np.bincount(y, minlength=K) + 2)[y, None] if shifted else np.zeros((n, 1))
    target = np.where(np.arange(K) == y[:, None], 1 - other, other / (K - 1))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = weights[0] * scores / scale + weights[1:]
        residual = softmax(z, axis=1) - target
        gradient = np.r_[(residual * scores).sum() / scale, residual.sum(axis=0) * shifted] / n
        return float(np.mean(logsumexp(z, axis=1) - (target * z).sum(axis=1))), gradient

    fit = minimize(loss, np.zeros(K + 1), jac=True, method="L-BFGS-B", tol=1e-12).x
    return np.full(K, fit[0] / scale), fit[1:] - fit[1:].mean()


def logits(layers: list[Dense], X: np.ndarray) -> np.ndarray:
    """Return what the last activation is applied to, float64 (n,) or (n, K)."""
    return forward([*layers[:-1], replace(layers[-1], activation="linear")], X)


def temperature(scores: np.ndarray, y: np.ndarray) -> float:
    """Return 1 / T, the scale of the logits (n,) with the lowest log loss on y (Guo et al. 2017)."""
    return float(_maximum_likelihood(scores[:, None], y.astype(np.float64))[0])


def platt(scores: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return slope and shift of the logits (n,) by maximum likelihood, on the smoothed targets of Platt 1999."""
    ones = int(y.sum())
    target = np.where(y == 1, (ones + 1) / (ones + 2), 1 / (len(y) - ones + 2))
    slope, shift = _maximum_likelihood(np.stack([scores, np.ones(len(y))], axis=1), target)
    return float(slope), float(shift)


def _maximum_likelihood(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the weights (k,) of columns (n, k) under a sigmoid with the lowest log loss against target (n,)."""
    scale = np.maximum(np.abs(columns).max(axis=0), 1e-12)
    columns = columns / scale

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        z = columns @ weights
        return float(np.mean(np.logaddexp(0, z) - target * z)), columns.T @ (expit(z) - target) / len(z)

    return minimize(loss, np.zeros(columns.shape[1]), jac=True, method="L-BFGS-B", tol=1e-12).x / scale


def isotonic(scores: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return knots x and calibrated logits z (k,) of the isotonic regression of y on logits (n,); between them, lines.

    A knot stands at the mean score of each level. A level of 0 or 1, whose logit is infinite, becomes Laplace's
    (ones + 1) / (rows + 2). Neighbours that then fall, or rise more steeply than STEEPEST, are pooled; of more than
    KNOTS the smallest too.
    """
    level = IsotonicRegression(out_of_bounds="clip").fit_transform(scores, y)
    at = np.unique(level, return_inverse=True)[1]
    # a block: its rows, the sum of their scores, how many of them are 1
    blocks = [*np.stack([np.bincount(at, weights=each) for each in (np.ones(len(y)), scores, y)], axis=1)]
    while True:
        rows, total, ones = np.array(blocks).T
        x, z = total / rows, logit(np.clip(ones / rows, 1 / (rows + 2), (rows + 1) / (rows + 2)))
        bad = (np.diff(z) <= 0) | (np.diff(z) > STEEPEST * np.diff(x))
        if not bad.any():
            if len(blocks) <= KNOTS:
                return x, z
            bad[:] = True
        first = int(np.argmin(np.where(bad, np.minimum(rows[1:], rows[:-1]), np.inf)))
        blocks[first : first + 2] = [blocks[first] + blocks[first + 1]]


def interpolated(layers: list[Dense], knots: list[tuple[np.ndarray, np.ndarray]]) -> list[Dense]:
    """Return layers whose logits are piecewise linear in those of `layers`: z at the knots x (k,), constant outside.

    A hidden unit a knot: z_0 + sum of (slope after the knot - slope before it) x relu(logit - knot).
    """
    slopes = [np.diff(np.r_[0, np.diff(z) / np.diff(x), 0]) if len(x) > 1 else np.zeros(1) for x, z in knots]
    ones = [np.ones((1, len(x))) for x, _ in knots]
    hinges = Dense(_float(block_diag(*ones)), _float(np.concatenate([-x for x, _ in knots])), "relu")
    out = Dense(_float(block_diag(*(each[:, None] for each in slopes))), _float([z[0] for _, z in knots]), "sigmoid")
    return [*layers[:-1], replace(layers[-1], activation="linear"), hinges, out]


def _float(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)
