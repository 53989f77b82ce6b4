"""Many linear heads as one matrix problem: one product of all rows with all heads' weights serves every head a step.

A fold of cross-validation is a head whose held-out rows weigh nothing, so folds and settings alike are columns, and the
scores of held-out rows come with the fit. `logistic` solves to convergence; `adam` steps through batches as Keras does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import eigh
from threadpoolctl import threadpool_limits

TOLERANCE = 1e-9  # of the objective; scikit-learn's default ends between 1e-4 and 1e-7
MOST_STEPS = 1000
SLOPE_LEFT = 0.3  # a line search ends where the slope has fallen to this share


@dataclass(frozen=True)
class Fit:
    """Weights W float32 (D, K) and intercepts b float32 (K,) of K heads; steps: int (K,), converged: bool (K,)."""

    W: np.ndarray
    b: np.ndarray
    steps: np.ndarray
    converged: np.ndarray

    def scores(self, Z: np.ndarray) -> np.ndarray:
        """Return the logits of rows Z (m, D): float32 (m, K)."""
        return Z @ self.W + self.b


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


def logistic(
    Z: np.ndarray, y: np.ndarray, weight: np.ndarray, C: np.ndarray, gram: Spectrum, start: np.ndarray | None = None
) -> Fit:
    """Minimise C_k sum_i weight_ik log(1 + exp(-t_i score_ik)) + |w_k|^2 / 2, t = 2y - 1, as scikit-learn does.

    Z: float32 (n, D), columns of mean 0, which costs nothing as the intercept is free. y: (n,) of 0 and 1.
    weight: float32 (n, K), 0 for a held-out row. C: (K,). gram: `spectrum(Z)`. start: weights
    over intercepts (D + 1, K) to begin at, else W = 0.

    Conjugate gradients after Polak and Ribiere, restarted where they would ascend (Nocedal & Wright 2006, 5.2). The
    preconditioner is the inverse Hessian as it would be if all rows had the head's mean curvature. A head stops once
    the decrease that one more step promises is under TOLERANCE of its objective.
    Memory: six float32 arrays of (n, K).
    """
    y = y.astype(np.float32)[:, None]
    C = C.astype(np.float32)
    done = _empty(Z.shape[1], len(C))
    live = np.arange(len(C))  # the heads still being solved
    W, b = (np.zeros_like(done.W), _log_odds(y, weight)) if start is None else (start[:-1], start[-1])
    S = Z @ W + b
    last: tuple[np.ndarray, ...] | None = None  # gradient, its preconditioned square, direction of the step before
    for step in range(MOST_STEPS + 1):
        p = _sigmoid(S)
        residual = weight * (p - y)
        gw, gb = C * (Z.T @ residual) + W, C * residual.sum(axis=0)
        curvature = np.maximum((weight * p * (1 - p)).sum(axis=0), 1e-3)
        zw = gram.axes @ ((gram.axes.T @ gw) / (gram.values[:, None] * (C * curvature / len(Z)) + 1))
        zb = gb / (C * curvature)
        promised = _dot(gw, gb, zw, zb)
        converged = promised / 2 <= TOLERANCE * _objective(S, y, weight, C, W)
        if (out := converged | (step == MOST_STEPS)).any():
            done.W[:, live[out]], done.b[live[out]] = W[:, out], b[out]
            done.steps[live[out]], done.converged[live[out]] = step, converged[out]
            if out.all():
                break
            live, C, b, gb, zb, promised = (a[~out] for a in (live, C, b, gb, zb, promised))
            W, S, weight, gw, zw = (a[:, ~out] for a in (W, S, weight, gw, zw))
            last = last and tuple(a[..., ~out] for a in last)
        dw, db = -zw, -zb
        if last:
            gw0, gb0, promised0, dw0, db0 = last
            beta = np.maximum(_dot(gw - gw0, gb - gb0, zw, zb) / promised0, 0)
            beta[_dot(gw, gb, dw + beta * dw0, db + beta * db0) >= 0] = 0
            dw, db = dw + beta * dw0, db + beta * db0
        U = Z @ dw + db
        t = _step(S, U, y, weight, C, (W * dw).sum(axis=0), (dw * dw).sum(axis=0), _dot(gw, gb, dw, db))
        S += t * U
        W, b = W + t * dw, b + t * db
        last = (gw, gb, promised, dw, db)
    return done


def out_of_fold(
    Z: np.ndarray, y: np.ndarray, C: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits (n, K) of each row by the logistic heads that did not see it, and their mean log loss (K,).

    Z, y, C: as in `logistic`. folds: (rest, held out) row numbers; each row is held out once.
    """
    weight, fold_of = np.ones((len(y), len(folds)), np.float32), np.empty(len(y), int)
    for number, (_, held_out) in enumerate(folds):
        weight[held_out, number], fold_of[held_out] = 0, number
    fit = logistic(Z, y, np.tile(weight, len(C)), np.repeat(C, len(folds)), spectrum(Z))
    scores = fit.scores(Z).reshape(len(y), len(C), len(folds))[np.arange(len(y)), :, fold_of].astype(np.float64)
    return scores, np.logaddexp(0, np.where(y == 1, -1, 1)[:, None] * scores).mean(axis=0)


def _step(
    S: np.ndarray,
    U: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    C: np.ndarray,
    w_d: np.ndarray,
    d_d: np.ndarray,
    slope: np.ndarray,
) -> np.ndarray:
    """Return how far each head goes from its scores S along U, (K,): Newton's method on the line, within its bracket.

    w_d, d_d: products of weights and direction. slope: at the start. Slopes decide, never the objective: what the last
    steps still gain, a float32 sum cannot tell.
    """
    low, high, t = np.zeros_like(C), np.full_like(C, np.inf), np.ones_like(C)
    for _ in range(20):
        p, wu = _sigmoid(S + t * U), weight * U
        first = C * ((p - y) * wu).sum(axis=0) + w_d + t * d_d
        steep = np.abs(first) > SLOPE_LEFT * np.abs(slope)
        if not steep.any():
            break
        second = C * (p * (1 - p) * wu * U).sum(axis=0) + d_d
        low, high = np.where(first < 0, t, low), np.where(first < 0, high, t)
        t = np.where(steep, np.clip(t - first / second, low + 0.1 * (t - low), np.minimum(4 * t, high)), t)
    return t


def adam(
    Z: np.ndarray,
    y: np.ndarray,
    weight: np.ndarray,
    *,
    learning_rate: np.ndarray,
    label_smoothing: np.ndarray,
    focal_gamma: np.ndarray,
    seeds: np.ndarray,
    epochs: tuple[int, ...],
    batch_size: int = 512,
    order_seed: int = 0,
) -> Iterator[tuple[int, Fit]]:
    """Train K heads on the same batches and yield (epoch, fit) after each of `epochs`, rising.

    Each head equals a training by itself with Keras: Dense(1, sigmoid) from its seed's Glorot uniform start, Adam, and
    BinaryFocalCrossentropy (Lin et al. 2017) with its gamma and label smoothing, gamma 0 being BinaryCrossentropy; the
    loss is summed over the batch, weighted, and divided by its rows, as Keras does with sample weights.
    A row of weight 0 is not in the head's batch. Z: float32 (n, D); y: (n,); weight: (n, K); the settings: (K,).
    """
    y = y.astype(np.float32)[:, None]
    D, K = Z.shape[1], len(learning_rate)
    label_smoothing, focal_gamma = label_smoothing.astype(np.float32), focal_gamma.astype(np.float32)
    limit = np.sqrt(6 / (D + 1))
    W = np.stack([np.random.default_rng(s).uniform(-limit, limit, D) for s in seeds], axis=1)
    # the intercept is the last row, so that Adam treats it as any weight
    parameters = np.concatenate([W, np.zeros((1, K))]).astype(np.float32)
    m, v, steps = np.zeros_like(parameters), np.zeros_like(parameters), np.zeros(K, int)
    rng = np.random.default_rng(order_seed)
    for epoch in range(1, max(epochs) + 1):
        order = rng.permutation(len(y))
        for rows in np.split(order, range(batch_size, len(y), batch_size)):
            x, w = Z[rows], weight[rows]
            count = (w > 0).sum(axis=0, dtype=np.float32)
            moves = np.minimum(count, 1)
            target = y[rows] * (1 - label_smoothing) + label_smoothing / 2
            slope = w * _loss_slope(x @ parameters[:-1] + parameters[-1], target, focal_gamma) / np.maximum(count, 1)
            gradient = np.concatenate([x.T @ slope, slope.sum(axis=0, keepdims=True)])
            steps += moves.astype(int)
            m += np.float32(0.1) * moves * (gradient - m)
            v += np.float32(0.001) * moves * (gradient * gradient - v)
            after = np.maximum(steps, 1)
            rate = learning_rate * np.sqrt(1 - 0.999**after) / (1 - 0.9**after) * moves
            parameters -= rate.astype(np.float32) * m / (np.sqrt(v) + np.float32(1e-7))
        if epoch in epochs:
            yield epoch, Fit(parameters[:-1].copy(), parameters[-1].copy(), steps.copy(), np.ones(K, bool))


def _loss_slope(S: np.ndarray, target: np.ndarray, gamma: np.ndarray) -> np.ndarray:
    """Return the derivative of the focal loss (1 - p_t)^gamma x cross-entropy by the score, (b, K) float32."""
    p = _sigmoid(S)
    if not gamma.any():
        return p - target
    entropy = np.maximum(S, 0) - target * S + np.log1p(np.exp(-np.abs(S)))
    missed = np.maximum(
        1 - (target * p + (1 - target) * (1 - p)), np.float32(1e-7)
    )  # Keras' floor; 0^-0.5 has no value
    turning = gamma * missed ** (gamma - 1) * (2 * target - 1) * p * (1 - p) * entropy
    return missed**gamma * (p - target) - turning


def _empty(D: int, K: int) -> Fit:
    return Fit(np.empty((D, K), np.float32), np.empty(K, np.float32), np.zeros(K, int), np.zeros(K, bool))


def _sigmoid(S: np.ndarray) -> np.ndarray:
    return np.float32(0.5) + np.float32(0.5) * np.tanh(np.float32(0.5) * S)  # ten times as fast as SciPy's expit


def _objective(S: np.ndarray, y: np.ndarray, weight: np.ndarray, C: np.ndarray, W: np.ndarray) -> np.ndarray:
    losses = np.maximum(S, 0) - y * S + np.log1p(np.exp(-np.abs(S)))
    return C * (weight * losses).sum(axis=0) + (W * W).sum(axis=0) / 2


def _log_odds(y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return np.log((weight * y).sum(axis=0) / (weight * (1 - y)).sum(axis=0))


def _dot(aw: np.ndarray, ab: np.ndarray, bw: np.ndarray, bb: np.ndarray) -> np.ndarray:
    return (aw * bw).sum(axis=0) + ab * bb
