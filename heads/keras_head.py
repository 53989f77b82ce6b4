"""The FC-sigmoid head, trained with Keras as the original did, in the shape of a scikit-learn classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from extract import engines
from heads.baselines import Head
from heads.layers import Dense, fold, standardisation, standardise

ORIGINAL_STEPS = 380  # 19,658 images in batches of 512, 10 epochs, as the original took


class SigmoidHead(Head):
    """Dense(1, sigmoid) by Adam on binary cross-entropy; the defaults are the original's.

    class_weight: "balanced" weighs each class by n / (2 x its count). standardise: on train's mean and scale, folded
    into the weights afterwards. patience: stop after so many epochs without a better validation loss, and keep the
    best; None runs all epochs.
    """

    def __init__(
        self,
        epochs: int = 10,
        batch_size: int = 512,
        learning_rate: float = 1e-3,
        class_weight: str | None = None,
        standardise: bool = False,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.class_weight, self.standardise, self.patience, self.seed = class_weight, standardise, patience, seed

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        sample_weight: np.ndarray | None = None,
        *,
        groups: Any = None,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        log_dir: Path | None = None,
    ) -> SigmoidHead:
        """Fit on features X (n, D), labels y (n,) of 0 and 1.

        validation: (X, y) for the loss curve, and for early stopping where `patience` is set. log_dir: where
        TensorBoard's event files go.
        """
        mean, scale = standardisation(X) if self.standardise else (np.zeros(X.shape[1]), np.ones(X.shape[1]))
        if self.standardise:
            X = standardise(X, mean, scale)
            validation = (standardise(validation[0], mean, scale), validation[1]) if validation else None
        model, history = self._train(X, y, self._weights(y, sample_weight), validation, log_dir)
        kernel, bias = (np.asarray(array) for array in model.get_weights())
        self.layers_ = (
            [fold(kernel[:, 0], float(bias[0]), mean, scale)] if self.standardise else [Dense(kernel, bias, "sigmoid")]
        )
        epochs = len(history["loss"])
        self.training_ = {
            "optimiser_steps": epochs * -(-len(y) // self.batch_size),
            "epochs": epochs,
            "stopped_early": epochs < self.epochs,
            "loss": [round(x, 6) for x in history["loss"]],
            "validation_loss": [round(x, 6) for x in history.get("val_loss", [])],
        }
        return self

    def _weights(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        if self.class_weight != "balanced":
            return sample_weight
        counts = np.bincount(y, minlength=2)
        balanced = (len(y) / (2 * counts))[y]
        return balanced if sample_weight is None else balanced * sample_weight

    def _train(
        self,
        X: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray | None,
        validation: tuple[np.ndarray, np.ndarray] | None,
        log_dir: Path | None,
    ) -> tuple[Any, dict[str, list]]:
        tf, keras = engines.load()
        keras.utils.set_random_seed(self.seed)
        tf.config.experimental.enable_op_determinism()
        model = keras.Sequential([keras.Input((X.shape[1],)), keras.layers.Dense(1, activation="sigmoid")])
        model.compile(keras.optimizers.Adam(self.learning_rate), loss="binary_crossentropy", jit_compile=False)
        callbacks = [keras.callbacks.TensorBoard(str(log_dir), write_graph=False)] if log_dir else []
        if self.patience is not None:
            callbacks.append(
                keras.callbacks.EarlyStopping("val_loss", patience=self.patience, restore_best_weights=True)
            )
        target = y.astype(np.float32)[:, None]
        held_out = (validation[0], validation[1].astype(np.float32)[:, None]) if validation else None
        history = model.fit(
            X,
            target,
            sample_weight=weights,
            batch_size=self.batch_size,
            epochs=self.epochs,
            validation_data=held_out,
            validation_batch_size=8192,
            callbacks=callbacks,
            verbose=0,
        )
        return model, history.history
