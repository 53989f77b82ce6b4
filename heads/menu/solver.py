"""Many linear heads as one matrix problem: one product of all rows with all heads' weights serves every head a step.

A fold of cross-validation is a head whose held-out rows weigh nothing, so folds and settings alike are columns, and the
scores of held-out rows come with the fit. `logistic` solves to convergence; `adam` steps through batches as Keras does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

TOLERANCE = 1e-9  # of the objective; scikit-learn's default ends between 1e-4 and 1e-7
MOST_STEPS = 1000
BATCH = 512  # rows of a step of Adam, as the original took
SLOPE_LEFT = 0.3  # a line search ends where the slope has fallen to this share

Line = Callable[[np.ndarray], tuple[np.ndarray, Callable[[], np.ndarray]]]


@dataclass(frozen=True)
class Fit:
    """Weights W float32 (D, H) and intercepts b float32 (H,) of H heads; steps: int (H,), converged: bool (H,).

    Heads with K classes or labels: W (D, K, H), b (K, H).
    """

    W: np.ndarray
    b: np.ndarray
    steps: np.ndarray
    converged: np.ndarray

    def scores(self, Z: np.ndarray) -> np.ndarray:
        """Return the logits of rows Z (m, D): float32 (m, H) or (m, K, H)."""
        return product(Z, self.W) + self.b

    def stacked(self) -> np.ndarray:
        """Return weights over intercepts, (D + 1, every head's columns)."""
        return np.concatenate([self.W, self.b[None]]).reshape(len(self.W) + 1, -1)

    def reshaped(self, K: int) -> Fit:
        """Return heads of K columns, of single columns in the order (K, H)."""
        steps, converged = self.steps.reshape(K, -1).max(axis=0), self.converged.reshape(K, -1).min(axis=0)
        return Fit(self.W.reshape(len(self.W), K, -1), self.b.reshape(K, -1), steps, converged)

    def only(self, at: slice) -> Fit:
        """Return some of the heads."""
        return Fit(*(each[..., at] for each in (self.W, self.b, self.steps, self.converged)))


def joined(fits: list[Fit]) -> Fit:
    """Return the heads of all fits, side by side."""
    names = ("W", "b", "steps", "converged")
    return Fit(*(np.concatenate([getattr(fit, name) for fit in fits], axis=-1) for name in names))


@dataclass(frozen=True)
class Spectrum:
    """Eigenvectors (D, D) and eigenvalues (D,) of Z'Z, float32: one decomposition preconditions every head."""

    axes: np.ndarray
    values: np.ndarray


def spectrum(Z: np.ndarray) -> Spectrum:
    """Decompose Z'Z for rows Z (n, D)."""
    gram = Z.T @ Z
    with threadpool_limits(1):  # on busy cores LAPACK's threads wait for each other: 15 s for 0.3
        # in float32: a preconditioner need not be exact; this driver needs half the memory of NumPy's
        values, axes = eigh(gram, overwrite_a=True, check_finite=False, driver="evr")
    return Spectrum(axes, np.maximum(values, 0))


class Problem(Protocol):
    """What H heads minimise. S: scores of all rows, U: the scores of a direction; see `_Problem`."""

    @property
    def Z(self) -> np.ndarray: ...

    def objective(self, W: np.ndarray, S: np.ndarray) -> np.ndarray:
        """Return it for each head, (H,)."""

    def gradient(self, W: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return the gradient by W and b, and both preconditioned."""

    def line(self, S: np.ndarray, U: np.ndarray, w_d: np.ndarray, d_d: np.ndarray) -> Line:
        """Return the slope of each head at S + t U, and what returns its curvature. w_d, d_d: weights . direction."""

    def only(self, keep: np.ndarray) -> Self:
        """Return the problem of some heads, bool (H,)."""


class _Problem(NamedTuple):
    """What H heads minimise: rows Z (n, D), y (n, 1) or (n, H), weight (n, H), C (H,), and the spectrum of Z'Z."""

    Z: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    C: np.ndarray
    gram: Spectrum

    def objective(self, W: np.ndarray, S: np.ndarray) -> np.ndarray:
        losses = np.maximum(S, 0) - self.y * S + np.log1p(np.exp(-np.abs(S)))
        return self.C * (self.weight * losses).sum(axis=0) + (W * W).sum(axis=0) / 2

    def gradient(self, W: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, ...]:
        residual, curvature = self._bends(S)
        gw, gb = self.C * (self.Z.T @ residual) + W, self.C * residual.sum(axis=0)
        curvature = np.maximum(curvature, 1e-3)
        axes, values = self.gram.axes, self.gram.values[:, None]
        zw = axes @ ((axes.T @ gw) / (values * (self.C * curvature / len(self.Z)) + 1))
        return gw, gb, zw, gb / (self.C * curvature)

    def _bends(self, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss's derivative by each score (n, H), and the sum of its second derivatives (H,)."""
        p = _sigmoid(S)
        return self.weight * (p - self.y), (self.weight * p * (1 - p)).sum(axis=0)

    def line(self, S: np.ndarray, U: np.ndarray, w_d: np.ndarray, d_d: np.ndarray) -> Line:
        def slope(t: np.ndarray) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
            p, wu = _sigmoid(S + t * U), self.weight * U
            first = self.C * ((p - self.y) * wu).sum(axis=0) + w_d + t * d_d
            return first, lambda: self.C * (p * (1 - p) * wu * U).sum(axis=0) + d_d

        return slope

    def only(self, keep: np.ndarray) -> Self:
        y = self.y[:, keep] if self.y.shape[1] > 1 else self.y
        return self._replace(y=y, weight=self.weight[:, keep], C=self.C[keep])


class _Machines(_Problem):
    """The same with the squared hinge loss max(0, 1 - t score)^2, t = 2y - 1: support vector machines."""

    def objective(self, W: np.ndarray, S: np.ndarray) -> np.ndarray:
        return self.C * (self.weight * self._miss(S) ** 2).sum(axis=0) + (W * W).sum(axis=0) / 2

    def _bends(self, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        miss = self._miss(S)
        return self.weight * (2 - 4 * self.y) * miss, 2 * (self.weight * (miss > 0)).sum(axis=0)

    def line(self, S: np.ndarray, U: np.ndarray, w_d: np.ndarray, d_d: np.ndarray) -> Line:
        def slope(t: np.ndarray) -> tuple[np.ndarray, Callable[[], np.ndarray]]:
            miss, wu = self._miss(S + t * U), self.weight * U
            first = self.C * ((2 - 4 * self.y) * miss * wu).sum(axis=0) + w_d + t * d_d
            return first, lambda: 2 * self.C * ((miss > 0) * wu * U).sum(axis=0) + d_d

        return slope

    def _miss(self, S: np.ndarray) -> np.ndarray:
        return np.maximum(1 - (2 * self.y - 1) * S, 0)


Posed = tuple[Problem, np.ndarray, np.ndarray]  # what `minimise` takes: heads, and weights and intercepts to begin at


def machines(
    Z: np.ndarray, y: np.ndarray, weight: np.ndarray, C: np.ndarray, gram: Spectrum, start: np.ndarray | None = None
) -> Posed:
    """Pose C_k sum_i weight_ik max(0, 1 - t_i score_ik)^2 + |w_k|^2 / 2, as scikit-learn's LinearSVC minimises it.

    Its intercept is free, LinearSVC's is not quite. The rest as `logistic`.
    """
    heads = _Machines(Z, y.astype(np.float32).reshape(len(y), -1), weight, C.astype(np.float32), gram)
    start = np.zeros((Z.shape[1] + 1, len(C)), np.float32) if start is None else start
    return heads, start[:-1], start[-1]


def logistic(
    Z: np.ndarray, y: np.ndarray, weight: np.ndarray, C: np.ndarray, gram: Spectrum, start: np.ndarray | None = None
) -> Fit:
    """Minimise C_k sum_i weight_ik log(1 + exp(-t_i score_ik)) + |w_k|^2 / 2, t = 2y - 1, as scikit-learn does.

    Z: float32 (n, D), columns of mean 0, which costs nothing as the intercept is free. y: 0 and 1, (n,), or (n, H)
    where each head has its own. weight: float32 (n, H), 0 for a held-out row; a head with rows of one kind only keeps
    the smoothed share of ones. C: (H,). gram: `spectrum(Z)`. start: weights over intercepts (D + 1, H) to begin at,
    else W = 0. Memory: six float32 arrays of (n, H).
    """
    return minimise(*posed(Z, y, weight, C, gram, start))


def posed(
    Z: np.ndarray, y: np.ndarray, weight: np.ndarray, C: np.ndarray, gram: Spectrum, start: np.ndarray | None = None
) -> Posed:
    """Pose what `logistic` minimises."""
    y = y.astype(np.float32).reshape(len(y), -1)
    odds, single = _log_odds(y, weight)
    heads = _Problem(Z, y, weight * ~single if single.any() else weight, C.astype(np.float32), gram)
    W, b = (np.zeros((Z.shape[1], len(C)), np.float32), odds) if start is None else (start[:-1], start[-1])
    return heads, W, b


POSED = {"log": posed, "hinge": machines}  # by loss


def minimise(heads: Problem, W: np.ndarray, b: np.ndarray, tolerance: float = TOLERANCE) -> Fit:
    """Solve H heads from weights W and intercepts b, whose last axis they are.

    Conjugate gradients; the preconditioner is the inverse Hessian as it would be if all rows had the head's mean
    curvature. A head stops once the decrease that one more step promises is under `tolerance` of its objective.
    """
    H = b.shape[-1]
    done = Fit(np.empty(W.shape, np.float32), np.empty(b.shape, np.float32), np.zeros(H, int), np.zeros(H, bool))
    live = np.arange(H)  # the heads still being solved
    S = product(heads.Z, W) + b
    last: list[np.ndarray] = []  # what `_direction` needs of the step before
    for step in range(MOST_STEPS + 1):
        gw, gb, zw, zb = heads.gradient(W, S)
        promised = _dot(gw, gb, zw, zb)
        converged = promised / 2 <= tolerance * heads.objective(W, S)
        if (out := converged | (step == MOST_STEPS)).any():
            done.W[..., live[out]], done.b[..., live[out]] = W[..., out], b[..., out]
            done.steps[live[out]], done.converged[live[out]] = step, converged[out]
            if out.all():
                break
            heads = heads.only(~out)
            arrays = (a[..., ~out] for a in (live, W, b, S, gw, gb, zw, zb, promised, *last))
            live, W, b, S, gw, gb, zw, zb, promised, *last = arrays
        dw, db = _direction(gw, gb, zw, zb, last)
        U = product(heads.Z, dw) + db
        t = _along(heads.line(S, U, _inner(W, dw), _inner(dw, dw)), _dot(gw, gb, dw, db))
        S += t * U
        W, b, last = W + t * dw, b + t * db, [gw, gb, promised, dw, db]
    return done


def _along(line: Line, start: np.ndarray) -> np.ndarray:
    """Return how far each head goes along a line, (H,): Newton's method, in its bracket. start: the slope at 0.

    Slopes decide, never the objective: what the last steps still gain, a float32 sum cannot tell.
    """
    low, high, t = np.zeros_like(start), np.full_like(start, np.inf), np.ones_like(start)
    for _ in range(20):
        slope, curvature = line(t)
        steep = np.abs(slope) > SLOPE_LEFT * np.abs(start)
        if not steep.any():
            break
        low, high = np.where(slope < 0, t, low), np.where(slope < 0, high, t)
        newton = np.clip(t - slope / curvature(), low + 0.1 * (t - low), np.minimum(4 * t, high))
        t = np.where(steep, newton, t)
    return t


def _direction(
    gw: np.ndarray, gb: np.ndarray, zw: np.ndarray, zb: np.ndarray, last: list[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return Polak and Ribiere's conjugate direction, or the steepest where that ascends (Nocedal & Wright 2006, 5.2).

    last: gradient, its preconditioned square and direction of the step before; empty at the first.
    """
    if not last:
        return -zw, -zb
    gw0, gb0, promised0, dw0, db0 = last
    beta = np.maximum(_dot(gw - gw0, gb - gb0, zw, zb) / promised0, 0)
    beta[_dot(gw, gb, beta * dw0 - zw, beta * db0 - zb) >= 0] = 0
    return beta * dw0 - zw, beta * db0 - zb


class Adam(NamedTuple):
    """How each of K heads is trained, (K,) each. seed: of its start."""

    learning_rate: np.ndarray
    label_smoothing: np.ndarray
    focal_gamma: np.ndarray
    seed: np.ndarray


def adam(Z: np.ndarray, y: np.ndarray, weight: np.ndarray, heads: Adam, epochs: int, order_seed: int) -> Iterator[Fit]:
    """Train K heads on the same batches of BATCH rows and yield their fit after each epoch.

    Each head equals a training by itself with Keras: Dense(1, sigmoid) from its seed's Glorot uniform start, Adam, and
    BinaryFocalCrossentropy (Lin et al. 2017) with its gamma and label smoothing, gamma 0 being BinaryCrossentropy; the
    loss is summed over the batch, weighted, and divided by its rows, as Keras does with sample weights.
    A row of weight 0 is not in the head's batch. Z: float32 (n, D); y: (n,), or (n, K) where each head has its own;
    weight: (n, K).
    """
    y = y.astype(np.float32).reshape(len(y), -1)
    limit = np.sqrt(6 / (Z.shape[1] + 1))
    start = [np.random.default_rng(seed).uniform(-limit, limit, Z.shape[1]) for seed in heads.seed]
    # the intercept is the last row, so that Adam treats it as any weight
    parameters = np.pad(np.stack(start, axis=1), ((0, 1), (0, 0))).astype(np.float32)
    smoothing, gamma = heads.label_smoothing.astype(np.float32), heads.focal_gamma.astype(np.float32)

    def slopes(rows: np.ndarray, S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        w = weight[rows]
        count = (w > 0).sum(axis=0, dtype=np.float32)
        target = y[rows] * (1 - smoothing) + smoothing / 2
        return w * _loss_slope(S, target, gamma) / np.maximum(count, 1), np.minimum(count, 1)

    yield from descend(Z, parameters, heads.learning_rate, slopes, epochs, order_seed)


def descend(
    Z: np.ndarray,
    parameters: np.ndarray,
    learning_rate: np.ndarray,
    slopes: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
    epochs: int,
    order_seed: int,
) -> Iterator[Fit]:
    """Take Adam's steps on batches of rows Z from parameters (D + 1, K), in place; yield the fit after each epoch.

    slopes: of the loss by each score, for some rows and their scores (b, K), and which columns move, 0 or 1 (K,).
    """
    m, v, steps = np.zeros_like(parameters), np.zeros_like(parameters), np.zeros(parameters.shape[1], int)
    rng = np.random.default_rng(order_seed)
    for _ in range(epochs):
        for rows in np.split(rng.permutation(len(Z)), range(BATCH, len(Z), BATCH)):
            x = Z[rows]
            slope, moves = slopes(rows, x @ parameters[:-1] + parameters[-1])
            gradient = np.concatenate([x.T @ slope, slope.sum(axis=0, keepdims=True)])
            steps += moves.astype(int)
            m += np.float32(0.1) * moves * (gradient - m)
            v += np.float32(0.001) * moves * (gradient * gradient - v)
            after = np.maximum(steps, 1)
            rate = learning_rate * np.sqrt(1 - 0.999**after) / (1 - 0.9**after) * moves
            parameters -= rate.astype(np.float32) * m / (np.sqrt(v) + np.float32(1e-7))
        yield Fit(parameters[:-1].copy(), parameters[-1].copy(), steps.copy(), np.ones(len(steps), bool))


def _loss_slope(S: np.ndarray, target: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Return the derivative of the focal loss (1 - p_t)^gamma x cross-entropy by the score, (b, K) float32."""
    p = _sigmoid(S)
    if not gamma.any():
        return p - target
    entropy = np.maximum(S, 0) - target * S + np.log1p(np.exp(-np.abs(S)))
    missed = 1 - (target * p + (1 - target) * (1 - p))
    missed = np.maximum(missed, np.float32(1e-7))  # Keras' floor; 0^-0.5 has no value
    turning = gamma * missed ** (gamma - 1) * (2 * target - 1) * p * (1 - p) * entropy
    return missed**gamma * (p - target) - turning


def _sigmoid(S: np.ndarray) -> np.ndarray:
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * S)  # ten times as fast as SciPy's expit


def _log_odds(y: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each head's share of ones as a logit, and which heads have ones or zeros only."""
    ones, zeros = (weight * y).sum(axis=0), (weight * (1 - y)).sum(axis=0)
    single = (ones == 0) | (zeros == 0)
    return np.log((ones + single) / (zeros + single)), single


def product(A: np.ndarray, B: np.ndarray) -> np.ndarray:
    """Return A (m, D) by B (D, ...)."""
    return (A @ B.reshape(len(B), -1)).reshape(len(A), *B.shape[1:])


def _inner(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the sum of products for each head, the last axis."""
    return (a * b).sum(axis=tuple(range(a.ndim - 1)))


def _dot(aw: np.ndarray, ab: np.ndarray, bw: np.ndarray, bb: np.ndarray) -> np.ndarray:
    return _inner(aw, bw) + _inner(ab, bb)
