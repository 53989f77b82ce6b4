"""The menu of heads. Adding one is an entry here and a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from extract.ground.errors import UsageError
from heads.menu.classifiers import KnnHead, LdaHead, SvmHead
from heads.menu.keras_head import SigmoidHead
from heads.menu.linear import Head, LogisticHead, MajorityHead
from heads.menu.rbf import RbfHead
from heads.menu.sweep import SweepHead

# name -> a function of the seed that makes an untrained head
HEADS: dict[str, Callable[[int], Head]] = {
    # exactly the original: Dense(1, sigmoid), Adam, batch 512, 10 epochs, raw features
    "sigmoid": lambda seed: SigmoidHead(seed=seed),
    # scikit-learn on standardised features, C by grouped cross-validation inside train
    "logistic": lambda seed: LogisticHead(seed=seed),
    # the original, each class weighing the same
    "sigmoid-balanced": lambda seed: SigmoidHead(class_weight="balanced", seed=seed),
    # the original trained to convergence: standardised, stopped when the validation loss no longer falls
    "sigmoid-long": lambda seed: SigmoidHead(epochs=300, learning_rate=3e-3, standardise=True, patience=10, seed=seed),
    # a hidden ReLU layer under the sigmoid, half of it dropped out; standardised, stopped on validation
    "mlp": lambda seed: SigmoidHead(epochs=300, batch_size=128, standardise=True, hidden=128, patience=10, seed=seed),
    # linear discriminant analysis, its covariance shrunk
    "lda": lambda seed: LdaHead(seed=seed),
    # linear support vector machine; C and Platt's calibration by grouped cross-validation inside train
    "svm": lambda seed: SvmHead(seed=seed),
    # nearest rows of train by cosine, k by grouped cross-validation inside train; cannot be exported
    "knn": lambda seed: KnnHead(seed=seed),
    # logistic regression under an RBF kernel by Nystroem; width and C by grouped cross-validation inside train
    "rbf": lambda seed: RbfHead(seed=seed),
    # the best of hundreds of linear heads by grouped cross-validation inside train (heads/menu/sweep.py has the axes)
    "sweep": lambda seed: SweepHead(seed=seed),
    # the floor: the share of class 1, whatever the image
    "majority": lambda seed: MajorityHead(),
}
COMPARED = tuple(name for name in HEADS if name != "sweep")  # what `make compare` trains; SWEEP= adds the sweep
DEFAULT = ("sigmoid", "logistic")  # what `make head` trains
BASELINES = (*DEFAULT, "sigmoid-long")  # what a chosen head is held against: with it they are measured on test


def create(name: str, seed: int, axes: dict[str, Any] | None = None) -> Head:
    """Make an untrained head; axes: of the sweep. Errors: UsageError that lists what there is."""
    if name not in HEADS:
        raise UsageError(f"HEAD={name} is no head", rule=f"Heads are {', '.join(HEADS)}")
    return SweepHead(axes, seed) if name == "sweep" else HEADS[name](seed)
