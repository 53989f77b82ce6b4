"""The FC-sigmoid head, trained with Keras as the original did, and with a hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from extract.ground import tensorflow
from extract.tables.task import UNKNOWN, Task
from heads.menu.head import Context, Head, Rows
from heads.menu.layers import Dense, fold, forward, standardisation, standardise
from heads.menu.search import balanced

ORIGINAL_STEPS = 380  # 19,658 images in batches of 512, 10 epochs, as the original took
DROPOUT = 0.5  # of the hidden units, in training

Curves = dict[str, dict[str, list[float]]]  # train or validation -> loss or accuracy -> a value an epoch


@dataclass(eq=False, repr=False, kw_only=True)
class SigmoidHead(Head):
    """Dense(1, sigmoid) by Adam on binary cross-entropy; the defaults are the original's.

    Of K classes Dense(K, softmax) on categorical cross-entropy; of K labels Dense(K, sigmoid), the loss of a row being
    summed over its known labels. hidden: units of a ReLU layer before it, dropped out at the rate DROPOUT; None for
    none. class_weight: "balanced" weighs each class by n / (K x its count), 0 and 1 of a label likewise. standardise:
    on train's mean and scale, folded into the weights afterwards. patience: stop after so many epochs without a better
    validation loss, and keep the best; None runs all epochs.
    """

    epochs: int = 10
    batch_size: int = 512
    learning_rate: float = 1e-3
    class_weight: str | None = None
    standardise: bool = False
    hidden: int | None = None
    patience: int | None = None
    seed: int = 0

    def _fit(self, X: np.ndarray, y: np.ndarray, context: Context) -> None:
        validation = context.validation
        if self.standardise:
            mean, scale = standardisation(X)
            X = standardise(X, mean, scale)
            validation = (standardise(validation[0], mean, scale), validation[1]) if validation else None
        layers, curves = self._train(X, y, validation)
        if context.log_dir:
            _write_tensorboard(context.log_dir, curves)
        self.layers_ = [fold(layers[0], mean, scale), *layers[1:]] if self.standardise else layers
        epochs = len(curves["train"]["loss"])
        self.training_ = {
            "optimiser_steps": epochs * -(-len(y) // self.batch_size),
            "epochs": epochs,
            "stopped_early": epochs < self.epochs,
            **{
                f"{'validation_' * (split == 'validation')}{name}": [round(value, 6) for value in values]
                for split, of_split in curves.items()
                for name, values in of_split.items()
            },
        }

    def prepare(self) -> None:
        tensorflow.load()

    def notes(self) -> list[str]:
        steps = self.training_["optimiser_steps"]
        if self.patience is not None or steps >= ORIGINAL_STEPS // 2:
            return []
        return [f"{steps} optimiser steps; the original took {ORIGINAL_STEPS}, so it is undertrained here"]

    def _train(self, X: np.ndarray, y: np.ndarray, validation: Rows | None) -> tuple[list[Dense], Curves]:
        """Return the trained layers, and loss and accuracy of each epoch.

        Keras' own fit sets up an input pipeline each epoch; batches by hand spare that (benchmarks/heads.py).
        """
        tf, keras = tensorflow.load()
        keras.utils.set_random_seed(self.seed)
        tf.config.experimental.enable_op_determinism()
        hidden = [keras.layers.Dense(self.hidden, "relu"), keras.layers.Dropout(DROPOUT)] if self.hidden else []
        last = keras.layers.Dense(self.task.columns, self.activation)
        model = keras.Sequential([keras.Input((X.shape[1],)), *hidden, last])
        adam = keras.optimizers.Adam(self.learning_rate)
        loss, accuracy, weights = self._objective(y)
        model.compile(adam, loss=loss, metrics=[accuracy], jit_compile=False)
        target, rng = y.astype(np.float32).reshape(len(y), -1), np.random.default_rng(self.seed)
        curves: Curves = {split: {"loss": [], "accuracy": []} for split in ("train", "validation")}
        best: list[Dense] | None = None
        for epoch in range(self.epochs):
            model.reset_metrics()
            order = rng.permutation(len(y))
            for rows in np.split(order, range(self.batch_size, len(y), self.batch_size)):
                figures = model.train_on_batch(X[rows], target[rows], None if weights is None else weights[rows])
            _add(curves["train"], *figures)  # the means over the epoch's rows
            layers = _dense(model)
            if validation:
                _add(curves["validation"], *_measured(self.task, forward(layers, validation[0]), validation[1]))
                if self.patience is not None:
                    since = epoch - int(np.argmin(curves["validation"]["loss"]))
                    best = layers if since == 0 else best
                    if since >= self.patience:
                        break
        return best or layers, curves

    def _objective(self, y: np.ndarray) -> tuple[Any, Any, np.ndarray | None]:
        """Return Keras' loss and accuracy, and the weight of each row (n,), None for 1."""
        if self.task.kind == "multilabel":
            return *_masked(y, self.class_weight == "balanced"), None
        loss = "binary_crossentropy" if self.task.kind == "binary" else "sparse_categorical_crossentropy"
        weights = balanced(self.task, y) if self.class_weight == "balanced" else None
        return loss, "accuracy", weights


def _masked(y: np.ndarray, balanced: bool) -> tuple[Any, Any]:
    """Return loss and accuracy of labels y (n, K): sums over a row's known labels by what a row knows on average.

    So their means over all rows are those over all known labels. balanced: 0 and 1 of each label weigh the same.
    """
    _, keras = tensorflow.load()
    ops, known = keras.ops, y != UNKNOWN
    mean = max(known.sum() / len(y), 1e-9)
    ones = np.stack([(y == value).sum(axis=0) for value in (0, 1)])
    weight = (known.sum(axis=0) / (2 * np.maximum(ones, 1)) if balanced else np.ones(ones.shape)).astype(np.float32)

    def loss(target: Any, p: Any) -> Any:
        p = ops.clip(p, 1e-7, 1 - 1e-7)
        zero, one = (ops.cast(ops.equal(target, value), p.dtype) for value in (0, 1))
        return -ops.sum(one * weight[1] * ops.log(p) + zero * weight[0] * ops.log(1 - p), axis=-1) / mean

    def accuracy(target: Any, p: Any) -> Any:
        hit = ops.logical_and(ops.not_equal(target, UNKNOWN), ops.equal(p > 0.5, target > 0.5))
        return ops.sum(ops.cast(hit, p.dtype), axis=-1) / mean

    return loss, accuracy


def _dense(model: Any) -> list[Dense]:
    """Copy the Dense layers of a Keras model; Dropout has no weights, and no part in predicting."""
    return [
        Dense(np.array(layer.kernel), np.array(layer.bias), layer.activation.__name__)
        for layer in model.layers
        if layer.weights
    ]


def _measured(task: Task, p: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Return log loss and accuracy, of several labels over the known ones."""
    clipped = np.clip(p, 1e-7, 1 - 1e-7)  # Keras' epsilon
    if task.kind == "multiclass":
        return float(-np.mean(np.log(clipped[np.arange(len(y)), y]))), float(np.mean(p.argmax(axis=1) == y))
    if task.kind == "multilabel":
        y, known = y[y != UNKNOWN], y != UNKNOWN
        p, clipped = p.reshape(known.shape)[known], clipped.reshape(known.shape)[known]
    return float(-np.mean(np.where(y == 1, np.log(clipped), np.log1p(-clipped)))), float(np.mean((p > 0.5) == y))


def _add(curves: dict[str, list[float]], loss: float, accuracy: float) -> None:
    curves["loss"].append(float(loss))
    curves["accuracy"].append(float(accuracy))


def _write_tensorboard(log_dir: Path, curves: Curves) -> None:
    """Write the curves as Keras' callback names them: epoch_loss and epoch_accuracy, under train/ and validation/."""
    tf, _ = tensorflow.load()
    for split, of_split in curves.items():
        writer = tf.summary.create_file_writer(str(log_dir / split))
        with writer.as_default():
            for name, values in of_split.items():
                for epoch, value in enumerate(values):
                    tf.summary.scalar(f"epoch_{name}", value, step=epoch)
        writer.close()
