"""A head that is not linear: logistic regression under an RBF kernel, made of layers that any export holds."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from heads.menu import solver
from heads.menu.head import Context
from heads.menu.layers import Dense, fold, standardisation, standardise, unit
from heads.menu.search import Folds, Searched, out_of_fold
from heads.menu.softmax import Rows

LANDMARKS = 512
COMPONENTS = 64
GAMMAS = (0.125, 0.25, 0.5, 1.0, 2.0)
CS = tuple(np.logspace(-2, 3, 11).tolist())


class RbfHead(Searched):
    """Logistic regression under exp(-gamma |u - v|^2), approximated by Nystroem's method (Williams & Seeger 2001).

    u: standardised features on their first COMPONENTS principal axes, brought to length 1, so that the kernel is
    exp(2 gamma (u.v - 1)): a Dense layer with an exponential. v: LANDMARKS rows of train, drawn at random. gamma and C
    by grouped cross-validation of the log loss inside train, on at most cv_rows rows; axes and landmarks are of all of
    train, which looks at no label. Memory: n x LANDMARKS float32, twice.
    """

    grids: ClassVar = {"gamma": GAMMAS, "C": CS}

    def __init__(self, cv_rows: int = 20_000, seed: int = 0) -> None:
        super().__init__(cv_rows, seed)

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        project = _projection(X)
        u = unit((X @ project.kernel + project.bias).astype(np.float32))
        landmarks = u[np.random.default_rng(self.seed).permutation(len(u))[:LANDMARKS]]
        (gamma, c), searched = self._search(y, context.groups, partial(self._losses, u, landmarks, y))
        F, above = _kernel_features(u, landmarks, gamma)
        F, mean = _centred(F)
        ones = np.ones((len(y), 1), np.float32)
        fit = Rows(F, y, solver.spectrum(F), self.task).solve(ones, np.array([c]))
        W, b = fit.W.reshape(F.shape[1], -1), fit.b.ravel()
        last = Dense((above @ W).astype(np.float32), (b - mean @ W).astype(np.float32), self.activation)
        kernel, bias = (2 * gamma * landmarks.T).astype(np.float32), np.full(len(landmarks), -2 * gamma, np.float32)
        self.layers_ = [project, Dense(kernel, bias, "exponential", unit=True), last]
        self.training_ = {
            "gamma": gamma,
            "C": c,
            "landmarks": len(landmarks),
            "components": u.shape[1],
            "cross_validation": searched,
            "converged": bool(fit.converged.all()),
        }

    def _losses(
        self, u: np.ndarray, landmarks: np.ndarray, y: np.ndarray, rows: np.ndarray, folds: Folds
    ) -> np.ndarray:
        features = (_centred(_kernel_features(u[rows], landmarks, gamma)[0])[0] for gamma in GAMMAS)
        return np.concatenate([out_of_fold(F, y[rows], np.array(CS), folds, self.task)[1] for F in features])


def _projection(X: np.ndarray) -> Dense:
    """Return the layer from raw features (n, D) to the first principal axes of the standardised ones."""
    mean, scale = standardisation(X)
    axes = solver.spectrum(standardise(X, mean, scale)).axes[:, ::-1][:, :COMPONENTS]
    return fold(Dense(axes, np.zeros(axes.shape[1], np.float32), "linear"), mean, scale)


def _kernel_features(u: np.ndarray, landmarks: np.ndarray, gamma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, r) float32 whose products approximate the kernel, and what makes them of u's kernel values.

    u, landmarks: rows of length 1. That is the inverse root of the landmarks' own kernel, float64 (m, r).
    """
    own = np.exp(2 * gamma * (landmarks @ landmarks.T - 1)).astype(np.float64)
    with threadpool_limits(1):
        values, vectors = np.linalg.eigh(own)
    keep = values > 1e-5 * values[-1]  # what float32 features can tell from none
    above = vectors[:, keep] / np.sqrt(values[keep])
    return np.exp(np.float32(2 * gamma) * (u @ landmarks.T - 1)) @ above.astype(np.float32), above


def _centred(F: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = F.mean(axis=0, dtype=np.float64)
    F -= mean.astype(np.float32)
    return F, mean
