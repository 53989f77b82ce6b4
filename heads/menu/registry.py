"""The menu of heads. Adding one is an entry here and a row in the README."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from extract.ground.errors import UsageError
from heads.menu.head import Head
from heads.menu.keras import SigmoidHead
from heads.menu.linear import LdaHead, LogisticHead, MajorityHead, SvmHead
from heads.menu.neighbours import KnnHead
from heads.menu.rbf import RbfHead
from heads.menu.sweep import SweepHead

HEADS: dict[str, Head] = {  # untrained; `create` returns a copy
    # exactly the original: Dense(1, sigmoid), Adam, batch 512, 10 epochs, raw features
    "sigmoid": SigmoidHead(),
    # scikit-learn on standardised features, C by grouped cross-validation inside train
    "logistic": LogisticHead(),
    # the original, each class weighing the same
    "sigmoid-balanced": SigmoidHead(class_weight="balanced"),
    # the original trained to convergence: standardised, stopped when the validation loss no longer falls
    "sigmoid-long": SigmoidHead(epochs=300, learning_rate=3e-3, standardise=True, patience=10),
    # a hidden ReLU layer under the sigmoid, half of it dropped out; standardised, stopped on validation
    "mlp": SigmoidHead(epochs=300, batch_size=128, standardise=True, hidden=128, patience=10),
    # linear discriminant analysis, its covariance shrunk
    "lda": LdaHead(),
    # linear support vector machine; C and Platt's calibration by grouped cross-validation inside train
    "svm": SvmHead(),
    # nearest rows of train by cosine, k by grouped cross-validation inside train; cannot be exported
    "knn": KnnHead(),
    # logistic regression under an RBF kernel by Nystroem; width and C by grouped cross-validation inside train
    "rbf": RbfHead(),
    # the best of hundreds of linear heads by grouped cross-validation inside train (heads/menu/sweep.py has the axes)
    "sweep": SweepHead(),
    # the floor: the share of class 1, whatever the image
    "majority": MajorityHead(),
}
COMPARED = tuple(name for name in HEADS if name != "sweep")  # what `make compare` trains; SWEEP= adds the sweep
DEFAULT = ("sigmoid", "logistic")  # what `make head` trains
BASELINES = (*DEFAULT, "sigmoid-long")  # what a chosen head is held against: with it they are measured on test


def create(name: str, seed: int, axes: dict[str, Any] | None = None) -> Head:
    """Make an untrained head; axes: of a head that has any. Errors: UsageError that lists what there is."""
    if name not in HEADS:
        raise UsageError("head-unknown", f"HEAD={name} is no head", rule=f"Heads are {', '.join(HEADS)}")
    head = clone(HEADS[name])
    settings = {"seed": seed, "axes": axes}
    return head.set_params(**{key: settings[key] for key in settings.keys() & head.get_params(deep=False).keys()})
