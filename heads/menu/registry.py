"""The menu of heads. Adding one is an entry here and a row in the README."""

from __future__ import annotations

from sklearn.base import clone

from extract.ground.errors import UsageError
from extract.tables.task import BINARY, Task
from heads.menu.head import Head
from heads.menu.keras import SigmoidHead
from heads.menu.linear import LdaHead, LogisticHead, MajorityHead, SvmHead
from heads.menu.neighbours import KnnHead
from heads.menu.rbf import RbfHead
from heads.menu.sweep import Axes, SweepHead

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
COMPARED = tuple(name for name, head in HEADS.items() if not head.only_swept)  # what `make compare` trains
SWEPT = tuple(name for name, head in HEADS.items() if head.only_swept)  # what SWEEP= adds
DEFAULT = ("sigmoid", "logistic")  # what `make head` trains
BASELINES = (*DEFAULT, "sigmoid-long")  # what a chosen head is held against: with it they are measured on test


def create(name: str, seed: int, axes: Axes | None = None, task: Task = BINARY) -> Head:
    """Make an untrained head of a task; axes: of a head that has any. Errors: UsageError that lists the heads."""
    if name not in HEADS:
        raise UsageError("head-unknown", f"Unknown head {name!r}", rule=f"Available: {', '.join(HEADS)}")
    head = clone(HEADS[name]).set_params(seed=seed)
    head.task = task
    return head.set_params(axes=axes) if "axes" in head.get_params() else head
