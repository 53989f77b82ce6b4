"""Each head in the registry is a scikit-learn classifier in shape, seeded, and equal to its folded layers."""

import json

import numpy as np
import pytest
from scipy.special import expit
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from extract.ground import tensorflow
from extract.ground.errors import TooFewRows
from extract.tables.task import BINARY
from heads.__main__ import main
from heads.menu import keras as keras_head
from heads.menu import layers, registry, sweep
from heads.menu.head import Head
from heads.menu.keras import SigmoidHead
from heads.menu.linear import LogisticHead, MajorityHead
from heads.menu.search import CS, balanced
from tests.support import synthetic
from tests.support.refusal import refusal

KERAS = {name for name in registry.HEADS if isinstance(registry.create(name, 0), SigmoidHead)}
EVERY = [pytest.param(name, marks=pytest.mark.tensorflow if name in KERAS else ()) for name in registry.HEADS]


@pytest.mark.parametrize("name", EVERY)
def test_a_head_has_a_classifiers_shape_and_a_seed(name, data):
    """fit, predict_proba, classes_, clone; the same seed gives the same numbers."""
    X, y = (each[:300] for each in data)
    head = registry.create(name, 1)
    again = clone(head)
    held_out = (X[200:], y[200:])
    p = head.fit(X[:200], y[:200], groups=np.arange(200), validation=held_out).predict_proba(X[200:])
    assert p.shape == (100, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    assert head.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(head.predict(X[200:]), p[:, 1] >= 0.5)
    np.testing.assert_array_equal(again.fit(X[:200], y[:200], validation=held_out).predict_proba(X[200:]), p)
    np.testing.assert_array_equal(layers.forward(head.to_model(), X[200:]), p[:, 1])


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("rows", ["as they are", "identical", "constant columns", "one group a class"])
def test_a_head_bears_few_rows_or_says_that_they_are_too_few(name, rows):
    """1 + 1 to 6 + 6: probabilities that are numbers, or TooFewRows; nothing else, whatever the features."""
    for counts in ((1, 1), (3, 3)) if name in KERAS else ((1, 1), (1, 3), (2, 2), (3, 3), (6, 6)):
        X, y = synthetic.features(sum(counts), 16, seed=0)[0], np.repeat([0, 1], counts).astype(np.int8)
        X = X[[0] * len(y)] if rows == "identical" else X
        X[:, ::2] = 7e5 if rows == "constant columns" else X[:, ::2]
        groups = y.astype(int) if rows == "one group a class" else np.arange(len(y))
        head = registry.create(name, 0, sweep.parse("C=0.01,1 epochs=2"))
        try:
            head.fit(X, y, groups=groups, validation=(X, y))
        except TooFewRows:
            assert name in ("lda", "sweep")
            continue
        assert np.isfinite(head.predict_proba(X)).all()
        assert isinstance(head.notes(), list)


def test_an_unknown_head_is_refused_with_the_list():
    """The message is the menu."""
    with refusal("head-unknown", "forest", "sigmoid, logistic"):
        registry.create("forest", 0)


class MeansHead(Head):
    """A head that the menu does not have: along the line between the classes' means."""

    def _fit(self, X, y, context):
        means = [X[y == value].mean(axis=0) for value in (0, 1)]
        kernel = (means[1] - means[0])[:, None] / X.var()
        self.layers_ = [layers.Dense(kernel, -(means[0] + means[1]) @ kernel / 2, "sigmoid")]
        self.training_ = {"means": "of each class"}


def test_a_new_head_is_one_entry_in_the_menu(cached, monkeypatch):
    """It is trained, calibrated and compared as it stands: no other room knows heads by name."""
    monkeypatch.setitem(registry.HEADS, "means", MeansHead())
    monkeypatch.setattr(registry, "COMPARED", ("majority", "means"))  # made of HEADS as the registry is read
    assert main(["train", "--out", str(cached.out), "--head", "means", "--calibrate", "platt"]) == 0
    facts = json.loads((cached.out / "heads" / "means" / "head.json").read_text())
    assert facts["training"]["means"] == "of each class"
    assert facts["training"]["calibration"] == "platt, 5 folds by group"
    assert main(["compare", "--out", str(cached.out)]) == 0
    comparison = json.loads((cached.out / "comparison.json").read_text())
    assert "means" in json.dumps(comparison)


def test_logistic_is_scikit_learns_pipeline_at_the_chosen_c(data):
    """Standardised, folded back into the weights: the same probabilities."""
    X, y = data
    head = LogisticHead().fit(X, y)
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=head.training_["C"], tol=1e-6)).fit(X, y)
    np.testing.assert_allclose(head.predict_proba(X), oracle.predict_proba(X), atol=2e-3)
    assert head.training_["converged"]


def test_c_is_chosen_by_groups_inside_train():
    """Copies in one group would make the weakest penalty look best, were they to stand on both sides of a fold."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 40)).astype(np.float32), rng.integers(0, 2, 60).astype(np.int8)
    X, y, groups = np.repeat(X, 8, axis=0), np.repeat(y, 8), np.repeat(np.arange(60), 8)
    assert LogisticHead().fit(X, y, groups=groups).training_["C"] < 0.05  # labels are random: the stronger the better
    assert LogisticHead().fit(X, y).training_["C"] == CS[-1]


def test_c_needs_two_groups_a_class_and_says_so(data):
    """With less there is nothing to cross-validate."""
    X, y = data
    head = LogisticHead().fit(X, y, groups=np.zeros(len(y), int))
    assert head.training_["C"] == CS[3]
    assert "too few groups" in head.training_["cross_validation"]


def test_a_search_on_a_sample_keeps_groups_on_one_side(data):
    """Rows are drawn, both classes in proportion; folds are still made by group."""
    X, y = data
    head = LogisticHead(cv_rows=100).fit(X, y, groups=np.arange(600) // 50)
    assert head.training_["cross_validation"].startswith("5 folds by group, 100 rows")
    assert head.training_["C"] in CS


def test_an_edge_of_the_search_is_said():
    """A C that nothing limits may not be the best."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300).astype(np.int8)
    X = (y[:, None] + 0.01 * rng.normal(size=(300, 3))).astype(np.float32)
    assert LogisticHead().fit(X, y).notes() == ["C = 1 lies at the edge of what was searched"]


def test_majority_says_the_share_of_class_1_whatever_the_image(data):
    """The floor under every head."""
    X, y = data
    np.testing.assert_allclose(MajorityHead().fit(X, y).predict_proba(X)[:, 1], y.mean(), rtol=1e-6)


def test_standardisation_is_numpys_and_folding_undoes_it(data):
    """Block by block, in float64; a constant column does no harm."""
    X = data[0].copy()
    X[:, 3] = 7
    mean, scale = layers.standardisation(X)
    np.testing.assert_allclose(mean, X.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(np.delete(scale, 3), np.delete(X.std(axis=0, dtype=np.float64), 3), rtol=1e-6)
    assert scale[3] == 1
    kernel, bias = np.random.default_rng(0).normal(size=(16, 3)), np.array([0.3, -1, 0])
    folded = layers.fold(layers.Dense(kernel, bias, "relu"), mean, scale)
    expected = np.maximum(((X - mean) / scale) @ kernel + bias, 0)
    np.testing.assert_allclose(layers.ACTIVATIONS["relu"](X @ folded.kernel + folded.bias), expected, atol=1e-4)
    last = layers.Dense(np.ones((3, 1), np.float32), np.array([-1], np.float32), "sigmoid")
    np.testing.assert_allclose(layers.forward([folded, last], X), expit(expected.sum(axis=1) - 1), atol=1e-5)


@pytest.mark.tensorflow
def test_sigmoid_is_the_originals_network_and_schedule(data):
    """Dense(1, sigmoid), Adam at 1e-3, binary cross-entropy, batch 512, 10 epochs, no standardisation."""
    assert registry.create("sigmoid", 0).get_params() == {
        "epochs": 10,
        "batch_size": 512,
        "learning_rate": 1e-3,
        "class_weight": None,
        "standardise": False,
        "hidden": None,
        "patience": None,
        "seed": 0,
    }
    head = SigmoidHead().fit(*data)
    assert (head.training_["epochs"], head.training_["optimiser_steps"]) == (10, 20)
    assert head.layers_[0].kernel.shape == (16, 1)
    assert head.training_["loss"][-1] < head.training_["loss"][0]


@pytest.mark.tensorflow
@pytest.mark.parametrize("hidden", [None, 8])
def test_batches_by_hand_train_as_keras_fit_trains(data, monkeypatch, hidden):
    """The oracle: model.fit on the same rows, one batch an epoch so that the order cannot matter."""
    monkeypatch.setattr(keras_head, "DROPOUT", 0.0)  # which rows it drops goes by their order
    _, keras = tensorflow.load()
    X, y = data[0][:400] / 10, data[1][:400]  # small: where a sigmoid saturates, float32 losses differ
    head = SigmoidHead(seed=5, hidden=hidden).fit(X, y, validation=(X, y))
    keras.utils.set_random_seed(5)
    below = [keras.layers.Dense(hidden, activation="relu"), keras.layers.Dropout(0.0)] if hidden else []
    model = keras.Sequential([keras.Input((16,)), *below, keras.layers.Dense(1, activation="sigmoid")])
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy", metrics=["accuracy"], jit_compile=False)
    fitted = model.fit(
        X, y[:, None].astype("f4"), batch_size=512, epochs=10, validation_data=(X, y[:, None]), verbose=0
    )
    np.testing.assert_allclose(head.layers_[0].kernel, model.get_weights()[0], atol=1e-6)
    np.testing.assert_allclose(head.layers_[-1].bias, model.get_weights()[-1], atol=1e-6)
    np.testing.assert_allclose(head.training_["loss"], fitted.history["loss"], atol=1e-5)
    np.testing.assert_allclose(head.training_["validation_loss"], fitted.history["val_loss"], atol=1e-5)
    np.testing.assert_allclose(head.training_["validation_accuracy"], fitted.history["val_accuracy"], atol=1e-5)
    np.testing.assert_allclose(head.training_["accuracy"], fitted.history["accuracy"], atol=1e-5)
    assert 0 < head.training_["accuracy"][-1] < 1


@pytest.mark.tensorflow
@pytest.mark.parametrize("weighted", [False, True])
def test_measuring_accuracy_changes_no_weight_and_no_loss(data, weighted):
    """Bit by bit, against the same batches through a network that measures nothing."""
    X, y = data
    weights = balanced(BINARY, y) if weighted else None
    kind = "balanced" if weighted else None
    head = SigmoidHead(epochs=4, batch_size=128, hidden=8, seed=5, class_weight=kind).fit(X, y)
    _, keras = tensorflow.load()
    keras.utils.set_random_seed(5)
    below = [keras.layers.Dense(8, "relu"), keras.layers.Dropout(keras_head.DROPOUT)]
    model = keras.Sequential([keras.Input((16,)), *below, keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(1e-3), loss="binary_crossentropy", jit_compile=False)
    rng, losses = np.random.default_rng(5), []
    for _ in range(4):
        model.reset_metrics()
        for rows in np.split(rng.permutation(600), range(128, 600, 128)):
            target = y[rows].astype(np.float32)[:, None]
            loss = model.train_on_batch(X[rows], target, None if weights is None else weights[rows])
        losses.append(round(float(loss), 6))
    assert head.training_["loss"] == losses
    ours = [array for layer in head.layers_ for array in (layer.kernel, layer.bias)]
    for array, theirs in zip(ours, model.get_weights(), strict=True):
        np.testing.assert_array_equal(array, theirs)


@pytest.mark.tensorflow
def test_the_curves_reach_tensorboard(data, tmp_path):
    """Loss and accuracy of train and validation, by the names of Keras' callback, read by TensorBoard's own reader."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    X, y = data
    head = SigmoidHead(epochs=3).fit(X, y, validation=(X, y), log_dir=tmp_path)
    for name, before in (("train", ""), ("validation", "validation_")):
        events = EventAccumulator(str(tmp_path / name)).Reload()
        assert set(events.Tags()["tensors"]) == {"epoch_loss", "epoch_accuracy"}
        for figure in ("loss", "accuracy"):
            tensors = events.Tensors(f"epoch_{figure}")
            assert [event.step for event in tensors] == [0, 1, 2]
            found = [float(make_ndarray(event.tensor_proto)) for event in tensors]
            np.testing.assert_allclose(found, head.training_[before + figure], atol=1e-5)


@pytest.mark.tensorflow
def test_balanced_weights_each_class_the_same(data):
    """Against Keras' own class_weight, whose arithmetic it replaces by arrays (tensorflow#33550)."""
    X, y = data
    weights = balanced(BINARY, y)
    assert weights[y == 0].sum() == pytest.approx(weights[y == 1].sum())
    rare = SigmoidHead(epochs=60, seed=1).fit(X, y).predict(X).mean()
    assert SigmoidHead(epochs=60, class_weight="balanced", seed=1).fit(X, y).predict(X).mean() > rare


@pytest.mark.tensorflow
def test_long_training_stops_early_on_validation_and_keeps_the_best(data):
    """The weights are those of the lowest validation loss."""
    X, y = data
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(600) < 0.4, 1 - y, y).astype(np.int8)
    head = SigmoidHead(epochs=300, learning_rate=0.05, batch_size=64, standardise=True, patience=5)
    head.fit(X[:300], noisy[:300], validation=(X[300:], noisy[300:]))
    losses = head.training_["validation_loss"]
    assert head.training_["stopped_early"]
    assert len(losses) - 1 - int(np.argmin(losses)) == 5
    p = np.clip(head.predict_proba(X[300:])[:, 1], 1e-7, 1 - 1e-7)
    loss = -np.mean(np.where(noisy[300:] == 1, np.log(p), np.log(1 - p)))
    assert loss == pytest.approx(min(losses), abs=1e-5)


@pytest.mark.tensorflow
def test_mlp_is_its_keras_model_on_standardised_features(data, monkeypatch):
    """Standardisation folded into the hidden layer; dropout in training alone."""
    X, y = data
    models = []
    monkeypatch.setattr(
        keras_head, "_dense", lambda model, dense=keras_head._dense: models.append(model) or dense(model)
    )
    head = registry.create("mlp", 3).set_params(epochs=4, patience=None).fit(X, y)
    assert [type(layer).__name__ for layer in models[-1].layers] == ["Dense", "Dropout", "Dense"]
    assert [layer.kernel.shape for layer in head.layers_] == [(16, 128), (128, 1)]
    expected = models[-1].predict(StandardScaler().fit_transform(X), verbose=0)[:, 0]
    np.testing.assert_allclose(head.predict_proba(X)[:, 1], expected, atol=1e-5)


@pytest.mark.tensorflow
def test_mlp_finds_what_no_line_can_tell_apart():
    """Two classes in opposite quadrants; a linear head is left with chance."""
    X = np.random.default_rng(0).normal(size=(900, 4)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(np.int8)
    head = registry.create("mlp", 0).fit(X[:600], y[:600], validation=(X[600:750], y[600:750]))
    assert (head.predict(X[750:]) == y[750:]).mean() > 0.85
    assert (LogisticHead().fit(X[:600], y[:600]).predict(X[750:]) == y[750:]).mean() < 0.65
