"""Logistic regression for every kind of task: settings and folds are columns of one matrix problem, K columns each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from extract.tables.task import BINARY, UNKNOWN, Task
from heads.menu import solver
from heads.menu.solver import Adam, Fit, Line, Spectrum, joined, minimise, product

TOLERANCE = 1e-8  # of the objective
CELLS = 30_000_000  # scores of all rows by all heads solved at a time: 120 MB


class _Problem(NamedTuple):
    """What H multinomial heads minimise: rows Z (n, D), y (n, 1, 1), weight (n, H), C (H,), the spectrum of Z'Z."""

    Z: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    C: np.ndarray
    gram: Spectrum

    def objective(self, W: np.ndarray, S: np.ndarray) -> np.ndarray:
        losses = _log_sum(S) - self._own(S)
        return self.C * (self.weight * losses).sum(axis=0) + (W * W).sum(axis=(0, 1)) / 2

    def gradient(self, W: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, ...]:
        p = softmax(S)
        weighted = p * self.weight[:, None]
        curvature = np.maximum(np.einsum("nkh,nkh->kh", weighted, 1 - p), 1e-3)
        residual = weighted
        np.put_along_axis(residual, self.y, (self._own(weighted) - self.weight)[:, None], axis=1)
        gw, gb = self.C * product(self.Z.T, residual) + W, self.C * residual.sum(axis=0)
        axes, values = self.gram.axes, self.gram.values[:, None, None]
        zw = product(axes, product(axes.T, gw) / (values * (self.C * curvature / len(self.Z)) + 1))
        zb = gb / (self.C * curvature)
        return gw, gb, zw, zb - zb.mean(axis=0)  # a shift of all intercepts changes nothing

    def line(self, S: np.ndarray, U: np.ndarray, w_d: np.ndarray, d_d: np.ndarray) -> Line:
        own = self._own(U)

        def slope(t: np.ndarray) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
            p = softmax(S + t * U)
            mean = np.einsum("nkh,nkh->nh", p, U)

            def curvature() -> np.ndarray:
                variance = np.einsum("nkh,nkh,nkh->nh", p, U, U) - mean**2
                return self.C * (self.weight * variance).sum(axis=0) + d_d

            return self.C * (self.weight * (mean - own)).sum(axis=0) + w_d + t * d_d, curvature

        return slope

    def only(self, keep: np.ndarray) -> _Problem:
        return self._replace(weight=self.weight[:, keep], C=self.C[keep])

    def _own(self, S: np.ndarray) -> np.ndarray:
        """Return each row's score of its own class, (n, H)."""
        return np.take_along_axis(S, self.y, axis=1)[:, 0]


@dataclass(frozen=True)
class Rows:
    """What heads are fitted on: rows Z float32 (n, D), columns of mean 0; y as the task has it; the spectrum of Z'Z."""

    Z: np.ndarray
    y: np.ndarray
    gram: Spectrum
    task: Task = BINARY

    def solve(
        self,
        weight: np.ndarray,
        C: np.ndarray,
        start: Fit | None = None,
        tolerance: float = TOLERANCE,
        loss: Literal["log", "hinge"] = "log",
    ) -> Fit:
        """Return H heads, each with its C (H,) and rows' weights, (n, H), or (n, K, H) for several labels.

        multiclass: minimises C sum_i weight_i (-log p_i of its class) + |W|^2 / 2, as scikit-learn does, p the softmax
        of K scores. Else as `solver.logistic`; of several labels each is a head, and one that is unknown weighs
        nothing. hinge: support vector machines, each of K classes against the rest. start: heads to begin at.
        tolerance: of K columns. Memory: six float32 arrays of CELLS, or of one head's scores.
        """
        if self.task.kind == "binary":
            return solver.logistic(self.Z, self.y, weight, C, self.gram, start.stacked() if start else None)
        K, size = self.task.columns, max(1, CELLS // (len(self.y) * self.task.columns))
        if size < len(C):
            lots = [slice(begin, begin + size) for begin in range(0, len(C), size)]
            starts = [start.only(at) if start else None for at in lots]
            fits = (self.solve(weight[..., at], C[at], s, tolerance, loss) for at, s in zip(lots, starts, strict=True))
            return joined([*fits])
        if self.task.kind == "multiclass" and loss == "log":
            return minimise(*self._multinomial(weight, C, start), tolerance)
        y, pose = self.y if self.y.ndim == 2 else self.y[:, None] == np.arange(K), solver.POSED[loss]
        known = (weight if weight.ndim == 3 else weight[:, None]) * (y != UNKNOWN)[..., None]  # (n, K, H)
        flat, labels = known.astype(np.float32).reshape(len(y), -1), np.repeat(y, len(C), axis=1)
        stacked = start.stacked() if start else None
        fit = minimise(*pose(self.Z, labels, flat, np.tile(C, K), self.gram, stacked), tolerance)
        return fit.reshaped(K)

    def _multinomial(self, weight: np.ndarray, C: np.ndarray, start: Fit | None) -> solver.Posed:
        y = self.y.astype(int)[:, None, None]
        problem = _Problem(self.Z, y, weight.astype(np.float32), C.astype(np.float32), self.gram)
        if start:
            return problem, start.W, start.b
        share = np.eye(self.task.columns, dtype=np.float32)[self.y].T @ problem.weight  # (K, H)
        b = np.log(np.maximum(share, 1e-9))
        return problem, np.zeros((self.Z.shape[1], *b.shape), np.float32), b - b.mean(axis=0)

    def adam(self, weight: np.ndarray, heads: Adam, epochs: int, order_seed: int) -> Iterator[Fit]:
        """Train H heads as `solver.adam` does and yield their fit after each epoch.

        multiclass: Keras' Dense(K, softmax) on CategoricalFocalCrossentropy without its alpha. Of several labels each
        is a head of its own.
        """
        K = self.task.columns
        if self.task.kind == "multiclass":
            fits = self._adam(weight, heads, epochs, order_seed)
        elif self.task.kind == "multilabel":
            weight = (weight if weight.ndim == 3 else weight[:, None]) * (self.y != UNKNOWN)[..., None]
            columns = Adam(*(np.tile(each, K) for each in heads))
            y = np.repeat(self.y, len(heads.seed), axis=1)
            fits = solver.adam(self.Z, y, weight.astype(np.float32).reshape(len(y), -1), columns, epochs, order_seed)
        else:
            yield from solver.adam(self.Z, self.y, weight, heads, epochs, order_seed)
            return
        for fit in fits:
            yield fit.reshaped(K)

    def _adam(self, weight: np.ndarray, heads: Adam, epochs: int, order_seed: int) -> Iterator[Fit]:
        D, K = self.Z.shape[1], self.task.columns
        limit = np.sqrt(6 / (D + K))
        start = [np.random.default_rng(seed).uniform(-limit, limit, (D, K)) for seed in heads.seed]
        parameters = np.pad(np.stack(start, axis=2).reshape(D, -1), ((0, 1), (0, 0))).astype(np.float32)
        smoothing, gamma = heads.label_smoothing.astype(np.float32), heads.focal_gamma.astype(np.float32)
        one_hot = np.eye(K, dtype=np.float32)

        def slopes(rows: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            w = weight[rows]
            count = (w > 0).sum(axis=0, dtype=np.float32)
            target = one_hot[self.y[rows]][..., None] * (1 - smoothing) + smoothing / K
            slope = focal_slope(S.reshape(len(rows), K, -1), target, gamma) * (w / np.maximum(count, 1))[:, None]
            return slope.reshape(len(rows), -1), np.tile(np.minimum(count, 1), K)

        return solver.descend(self.Z, parameters, np.tile(heads.learning_rate, K), slopes, epochs, order_seed)

    def losses(self, scores: np.ndarray) -> np.ndarray:
        """Return each row's log loss by logits (n, H) or (n, K, H): float64 (n, H).

        Of several labels, the sum over known ones, scaled so that its mean over rows is that over known labels.
        """
        if self.task.kind == "multiclass":
            own = np.take_along_axis(scores, self.y.astype(int)[:, None, None], axis=1)[:, 0]
            return (_log_sum(scores) - own).astype(np.float64)
        losses = np.logaddexp(0, np.where(self.y[..., None] == 1, -scores, scores), dtype=np.float64)
        if self.task.kind == "binary":
            return losses
        known = self.y != UNKNOWN
        return np.einsum("nkh,nk->nh", losses, known * (len(known) / known.sum()))


def _log_sum(S: np.ndarray) -> np.ndarray:
    top = _top(S)
    return top[:, 0] + np.log(np.einsum("nkh->nh", np.exp(S - top)))


def _top(S: np.ndarray) -> np.ndarray:
    """Return what to take off scores before exp: the largest of all where none would vanish, which is ten times as
    fast, else each row's, (n, 1, H) or (1, 1, 1)."""
    largest = S.max(keepdims=True)
    return largest if largest - S.min() < 80 else S.max(axis=1, keepdims=True)


def focal_slope(S: np.ndarray, target: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Return the derivative by the scores of the focal loss sum_k (1 - p_k)^gamma x -target_k log p_k, (b, K, H)."""
    p = softmax(S)
    if not gamma.any():
        return p - target
    missed, p_floor = np.maximum(1 - p, np.float32(1e-7)), np.maximum(p, np.float32(1e-7))
    by_log = target * (gamma * missed ** (gamma - 1) * p * np.log(p_floor) - missed**gamma)
    return by_log - p * by_log.sum(axis=1, keepdims=True)


def softmax(S: np.ndarray) -> np.ndarray:
    """Return probabilities of scores (n, K, H), a new array."""
    p = S - _top(S)
    np.exp(p, out=p)
    p /= np.einsum("nkh->nh", p)[:, None]
    return p
