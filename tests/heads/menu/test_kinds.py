"""Every head of the menu learns K classes and several labels: each against scikit-learn's or Keras' own form."""

import warnings

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from extract.ground import tensorflow
from extract.ground.errors import HeadError, TooFewRows
from extract.tables.task import Task
from heads.menu import keras as keras_head
from heads.menu import layers, registry, search, sweep
from heads.menu.keras import SigmoidHead

KINDS, LABELS = Task("multiclass", tuple("abcd")), Task("multilabel", tuple("abc"))
KERAS = {name for name in registry.HEADS if isinstance(registry.create(name, 0), SigmoidHead)}
EVERY = [pytest.param(name, marks=pytest.mark.tensorflow if name in KERAS else ()) for name in registry.HEADS]
SMALL = sweep.parse("C=0.01,1 epochs=2 scaling=standard")


def rows(task, n=400, dim=16, seed=0):
    """Features and labels of a task; of several labels a fifth are unknown."""
    rng = np.random.default_rng(seed)
    kind = np.r_[np.arange(4), rng.choice(4, n - 4, p=[0.4, 0.3, 0.2, 0.1])]
    X = (rng.normal(size=(n, dim)) + rng.normal(size=(4, dim))[kind] * 0.7 + 3).astype(np.float32)
    if task is KINDS:
        return X, kind.astype(np.int16)
    y = np.stack([kind < 2, kind % 2 == 1, (kind == 3) ^ (rng.random(n) < 0.1)], axis=1)
    return X, np.where(rng.random((n, 3)) < 0.2, -1, y).astype(np.int8)


def losses(task, y, p):
    """Mean log loss, of several labels over known ones."""
    return search.mean_log_loss(task, y, p)


@pytest.mark.parametrize("task", [KINDS, LABELS], ids=["classes", "labels"])
@pytest.mark.parametrize("name", EVERY)
def test_a_head_learns_classes_and_labels(name, task):
    """Probabilities (n, K) better than the floor on fresh rows, y of the task's shape, the same from its model."""
    (X, y), held = rows(task), slice(300, None)
    head = registry.create(name, 1, SMALL, task)
    head.fit(X[:300], y[:300], groups=np.arange(300) // 2, validation=(X[held], y[held]))
    p = head.predict_proba(X[held])
    assert p.shape == (100, len(task.classes))
    if task is KINDS:
        np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(layers.forward(head.to_model(), X[held]), p)
    said = head.predict(X[held])
    assert said.shape == y[held].shape
    assert isinstance(head.notes(), list)
    floor = registry.create("majority", 0, task=task).fit(X[:300], y[:300]).predict_proba(X[held])
    if name not in ("majority", "sigmoid", "sigmoid-balanced"):
        assert losses(task, y[held], p) < losses(task, y[held], floor) - 0.1
    again = registry.create(name, 1, SMALL, task)
    again.fit(X[:300], y[:300], groups=np.arange(300) // 2, validation=(X[held], y[held]))
    np.testing.assert_array_equal(again.predict_proba(X[held]), p)


def test_majority_says_each_classs_share():
    """scikit-learn's DummyClassifier; of labels the share of known ones, a label never 1 half a row."""
    X, y = rows(KINDS)
    head = registry.create("majority", 0, task=KINDS).fit(X, y)
    np.testing.assert_allclose(
        head.predict_proba(X), DummyClassifier(strategy="prior").fit(X, y).predict_proba(X), 1e-5
    )
    X, y = rows(LABELS)
    y[:, 2] = 0
    p = registry.create("majority", 0, task=LABELS).fit(X, y).predict_proba(X)[0]
    np.testing.assert_allclose(p, [y[y[:, 0] >= 0, 0].mean(), y[y[:, 1] >= 0, 1].mean(), 0.5 / len(y)], rtol=1e-5)


def test_logistic_is_scikit_learns_at_the_chosen_c():
    """Multinomial on standardised features; of several labels one-vs-rest on the rows that know each."""
    X, y = rows(KINDS)
    head = registry.create("logistic", 0, task=KINDS).fit(X, y)
    Z, C = StandardScaler().fit_transform(X), head.training_["C"]
    oracle = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(Z, y)
    np.testing.assert_allclose(head.predict_proba(X), oracle.predict_proba(Z), atol=1e-3)
    X, y = rows(LABELS)
    head = registry.create("logistic", 0, task=LABELS).fit(X, y)
    Z, C = StandardScaler().fit_transform(X), head.training_["C"]
    for label in range(3):
        known = y[:, label] >= 0
        oracle = LogisticRegression(C=C, tol=1e-8, max_iter=1000).fit(Z[known], y[known, label])
        np.testing.assert_allclose(head.predict_proba(X)[:, label], oracle.predict_proba(Z)[:, 1], atol=1e-3)


@pytest.mark.parametrize("task", [KINDS, LABELS], ids=["classes", "labels"])
def test_the_search_of_c_finds_the_lowest_loss(task):
    """scikit-learn's log loss of out-of-fold scores by fits that did not see the row, at each C that was looked at."""
    X, y = rows(task, 200)
    Z = StandardScaler().fit_transform(X.astype(float))
    folds = search.folds_for(task, y, np.arange(200) // 2, 0)
    scores, found = search.out_of_fold(Z.astype(np.float32), y, search.CS, folds, task)
    assert len(folds) == 5
    for place in np.flatnonzero(np.isfinite(found)):
        model = LogisticRegression(C=search.CS[place], tol=1e-6, max_iter=1000)
        p = np.empty((200, len(task.classes)))
        for rest, held_out in folds:
            for label in range(3) if task is LABELS else [slice(None)]:
                known = rest[y[rest, label] >= 0] if task is LABELS else rest
                fitted = model.fit(Z[known], y[known, label] if task is LABELS else y[known])
                own = fitted.predict_proba(Z[held_out])
                p[held_out, label] = own[:, 1] if task is LABELS else own
        assert found[place] == pytest.approx(losses(task, y, p), abs=2e-3)
        ours = scores[..., place]
        np.testing.assert_allclose(expit(ours) if task is LABELS else softmax(ours, axis=1), p, atol=2e-2)
    assert np.isinf(found[np.argmin(found) + 2 :]).all()


def test_folds_deal_rare_kinds_too():
    """Two hundred classes, some in two groups only: each is in the rest of every fold; a class in one group: no folds."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(200), rng.integers(2, 12, 200))
    groups = np.arange(len(y))
    folds = search.folds_by_group(y, groups, 0)
    assert len(folds) >= 2
    groups = np.r_[np.arange(len(y))] // 1
    paired = search.folds_by_group(np.repeat(y, 2), np.repeat(groups, 2), 0)
    assert len(paired) >= 2
    for rest, held_out in paired:
        assert set(np.repeat(groups, 2)[rest]).isdisjoint(np.repeat(groups, 2)[held_out])
    assert search.folds_by_group(y, y, 0) == []


def test_a_sample_has_rows_of_every_class():
    """However rare: its first rows come before the rest is drawn."""
    y = np.r_[np.zeros(5000, int), np.full(3, 1), np.full(40, 2)]
    chosen = search.some_rows(Task("multiclass", tuple("abc")), y, 500, 0)
    assert len(np.unique(chosen)) == 500
    assert np.bincount(y[chosen]).tolist()[1] == 3
    assert np.bincount(y[chosen])[2] >= 5


def test_knn_is_scikit_learns_votes_smoothed():
    """(votes + 1) / (k + K) by cosine; of labels (votes + 1) / (known + 2)."""
    X, y = rows(KINDS)
    head = registry.create("knn", 0, task=KINDS).fit(X[:300], y[:300])
    k = head.training_["k"]
    oracle = KNeighborsClassifier(k, metric="cosine", algorithm="brute").fit(X[:300].astype(float), y[:300])
    votes = oracle.predict_proba(X[300:].astype(float)) * k
    np.testing.assert_allclose(head.predict_proba(X[300:]), (votes + 1) / (k + 4), atol=1e-9)
    X, y = rows(LABELS)
    head = registry.create("knn", 0, task=LABELS).fit(X[:300], y[:300])
    near = oracle.fit(X[:300].astype(float), np.zeros(300)).kneighbors(X[300:], head.training_["k"], False)
    ones, known = (y[near] == 1).sum(axis=1), (y[near] >= 0).sum(axis=1)
    np.testing.assert_allclose(head.predict_proba(X[300:]), (ones + 1) / (known + 2))


@pytest.mark.tensorflow
@pytest.mark.parametrize("weight", [None, "balanced"])
def test_keras_trains_dense_k_softmax(weight):
    """model.fit on the same rows with Keras' own loss and class_weight."""
    _, keras = tensorflow.load()
    X, y = rows(KINDS)
    X = X / 10
    head = SigmoidHead(seed=5, class_weight=weight)
    head.task = KINDS
    head.fit(X, y, validation=(X, y))
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(4, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=False)
    share = {k: len(y) / (4 * count) for k, count in enumerate(np.bincount(y))} if weight else None
    fitted = model.fit(X, y, batch_size=512, epochs=10, class_weight=share, validation_data=(X, y), verbose=0)
    np.testing.assert_allclose(head.layers_[0].kernel, model.get_weights()[0], atol=1e-5)
    np.testing.assert_allclose(head.training_["validation_loss"], fitted.history["val_loss"], atol=1e-4)
    np.testing.assert_allclose(head.training_["validation_accuracy"], fitted.history["val_accuracy"], atol=1e-4)
    np.testing.assert_allclose(head.training_["accuracy"], fitted.history["accuracy"], atol=1e-4)


@pytest.mark.tensorflow
@pytest.mark.parametrize("weight", [None, "balanced"])
def test_keras_trains_each_label_on_the_rows_that_know_it(weight):
    """Keras' binary cross-entropy by cell, weights of 0 where unknown; accuracy over known labels."""
    tf, keras = tensorflow.load()
    X, y = rows(LABELS)
    X, known = X / 10, y >= 0
    head = SigmoidHead(seed=5, class_weight=weight)
    head.task = LABELS
    head.fit(X, y, validation=(X, y))
    cells = known.astype(np.float32)
    if weight:
        for k in range(3):
            for value in (0, 1):
                cells[y[:, k] == value, k] = known[:, k].sum() / (2 * (y[:, k] == value).sum())
    keras.utils.set_random_seed(5)
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3, "sigmoid")])
    model.build((None, 16))
    adam, target = keras.optimizers.Adam(1e-3), tf.constant(np.maximum(y, 0), tf.float32)
    for _ in range(10):
        with tf.GradientTape() as tape:
            each = keras.losses.binary_crossentropy(target[..., None], model(X)[..., None])
            loss = tf.reduce_sum(each * cells) / known.sum()
        adam.apply_gradients(zip(tape.gradient(loss, model.weights), model.weights, strict=True))
    np.testing.assert_allclose(head.layers_[0].kernel, model.get_weights()[0], atol=1e-5)
    p = head.predict_proba(X)
    assert head.training_["validation_loss"][-1] == pytest.approx(losses(LABELS, y, p), abs=1e-4)
    assert head.training_["validation_accuracy"][-1] == pytest.approx(((p > 0.5) == y)[known].mean(), abs=1e-6)
