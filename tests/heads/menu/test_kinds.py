"""Every head of the menu learns K classes and several labels: each against scikit-learn's or Keras' own form."""

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from extract.ground import tensorflow
from extract.ground.errors import HeadError, TooFewRows
from extract.tables.task import Task
from heads.menu import calibration, layers, rbf, registry, search, solver, sweep
from heads.menu.head import Head
from heads.menu.keras import SigmoidHead
from heads.menu.softmax import Rows

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
def test_a_head_learns_classes_and_labels(name, task, monkeypatch):
    """Probabilities (n, K) better than the floor on fresh rows, y of the task's shape, the same from its model."""
    monkeypatch.setattr(rbf, "GAMMAS", (0.25, 1.0))
    monkeypatch.setattr(rbf, "CS", (1.0, 10.0, 100.0))
    monkeypatch.setattr(rbf.RbfHead, "grids", {"gamma": rbf.GAMMAS, "C": rbf.CS})
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
    Cs = np.array([1e-3, 1e-2, 1.0, 30.0, 100.0])
    scores, found = search.out_of_fold(Z.astype(np.float32), y, Cs, folds, task)
    assert len(folds) == 5
    for place in np.flatnonzero(np.isfinite(found)):
        model = LogisticRegression(C=Cs[place], tol=1e-6, max_iter=1000)
        p = np.empty((200, len(task.classes)))
        for rest, held_out in folds:
            for label in range(3) if task is LABELS else [slice(None)]:
                known = rest[y[rest, label] >= 0] if task is LABELS else rest
                fitted = model.fit(Z[known], y[known, label] if task is LABELS else y[known])
                own = fitted.predict_proba(Z[held_out])
                p[held_out, label] = own[:, 1] if task is LABELS else own
        assert found[place] == pytest.approx(losses(task, y, p), abs=2e-3)
        ours = scores[..., place]
        np.testing.assert_allclose(expit(ours) if task is LABELS else softmax(ours, axis=1), p, atol=5e-2)
    assert np.isinf(found[np.argmin(found) + 2 :]).all()


def test_folds_deal_rare_kinds_too():
    """Two hundred classes, some in two groups only: every fold trains on all; a class in one group: none."""
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
    y = np.repeat(np.arange(900), 4)
    many = Task("multiclass", tuple(map(str, range(900))))
    assert (np.bincount(y[search.some_rows(many, y, 1500, 0)]) == 2).all()


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


@pytest.mark.parametrize("task", [KINDS, LABELS], ids=["classes", "labels"])
@pytest.mark.parametrize("name", ["lda", "svm"])
def test_lda_and_svm_are_scikit_learns_scores_calibrated_out_of_fold(name, task):
    """One slope, and a shift a class, of the scores of fits that did not see the row, on those of a fit on all rows."""
    X, y = rows(task)
    groups = np.arange(400) // 2
    head = registry.create(name, 0, task=task).fit(X, y, groups=groups)
    Z = StandardScaler().fit_transform(X.astype(float))
    if name == "lda":
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    else:
        C = head.training_["C"]
        model = LinearSVC(C=C, dual=False, tol=1e-8, intercept_scaling=1e3, max_iter=10_000)

    def scores(rest, asked):
        if task is KINDS:
            return model.fit(Z[rest], y[rest]).decision_function(Z[asked])
        known = [rest[y[rest, label] >= 0] for label in range(3)]
        each = [model.fit(Z[of], y[of, k]).decision_function(Z[asked]) for k, of in enumerate(known)]
        return np.stack(each, axis=1)

    unseen = np.empty((400, len(task.classes)))
    for rest, held_out in search.folds_for(task, y, groups, 0):
        unseen[held_out] = scores(rest, held_out)
    slope, shift = calibration.calibrated(task, unseen, y, "platt")
    expected = slope * scores(np.arange(400), np.arange(400)) + shift
    expected = softmax(expected, axis=1) if task is KINDS else expit(expected)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=2e-3)
    assert head.training_["calibration"] == "Platt, 5 folds by group"


def test_platt_of_classes_is_the_best_slope_and_shifts():
    """No small step makes the loss smaller, and the true map is found."""
    rng = np.random.default_rng(0)
    scores, true = rng.normal(size=(3000, 4)) * 3, np.array([0.5, -0.2, 0.0, -0.3])
    p = softmax(0.4 * scores + true, axis=1)
    y = (p.cumsum(axis=1) < rng.random((3000, 1))).sum(axis=1).clip(0, 3)
    slope, shift = calibration.calibrated(KINDS, scores, y, "platt")
    assert len(set(slope)) == 1
    assert slope[0] == pytest.approx(0.4, abs=0.03)
    np.testing.assert_allclose(shift, true, atol=0.15)
    other = 1 / (np.bincount(y) + 2)[y, None]
    target = np.where(np.arange(4) == y[:, None], 1 - other, other / 3)  # Platt's, the rest shared

    def loss(z):
        return -np.mean((target * log_softmax(z, axis=1)).sum(axis=1))

    best = loss(slope * scores + shift)
    for step in np.eye(5) * 1e-2:
        for sign in (-1, 1):
            moved = (slope + sign * step[0]) * scores + shift + sign * step[1:]
            assert loss(moved) > best
    only, none = calibration.calibrated(KINDS, scores, y, "temperature")
    assert not none.any()
    assert log_loss(y, softmax(only * scores, axis=1)) < log_loss(y, softmax(scores, axis=1))


class Sure(Head):
    """A logistic head with hardly any penalty: it is far too sure."""

    def _fit(self, X, y, context):
        data = Rows(X, y, solver.spectrum(X), self.task)
        fit = data.solve(np.ones((len(y), 1)), np.array([30.0]))
        self.layers_ = [layers.Dense(fit.W[..., 0], fit.b[:, 0], self.activation)]
        self.training_ = {}


@pytest.mark.parametrize("method", calibration.METHODS)
@pytest.mark.parametrize("task", [KINDS, LABELS], ids=["classes", "labels"])
def test_calibration_mends_a_head_that_is_too_sure(task, method):
    """Log loss on fresh rows falls; isotonic is refused for classes."""
    X, y = rows(task, 2600, 60)
    rng = np.random.default_rng(0)
    y = np.where(rng.random(y.shape) < 0.15, rng.permutation(y), y)
    X, head = X - 3, Sure()
    head.task = task
    wrapped, _ = calibration.wrap(head, method, 0)
    if task is KINDS and method == "isotonic":
        with pytest.raises(HeadError) as raised:
            wrapped.fit(X[:1100], y[:1100])
        assert raised.value.code == "isotonic-multiclass"
        return
    n = 1100 if method == "isotonic" else 300
    wrapped.fit(X[:n], y[:n])
    before, after = head.predict_proba(X[n:]), wrapped.predict_proba(X[n:])
    assert losses(task, y[n:], after) < losses(task, y[n:], before)
    assert wrapped.training_["calibration"] == f"{method}, 5 folds by group"


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


@pytest.mark.parametrize("task", [KINDS, LABELS], ids=["classes", "labels"])
def test_the_sweep_compares_on_some_rows_and_trains_the_best_on_all(task, monkeypatch):
    """Losses are those of fits that did not see the row; the winner is scikit-learn's on all of train."""
    monkeypatch.setattr(sweep, "ROWS", 160 * task.columns)
    monkeypatch.setattr(search, "SOME", 100)
    X, y = rows(task)
    axes = sweep.parse("C=0.001,0.01 scaling=standard epochs=")
    head = registry.create("sweep", 3, axes, task).fit(X, y)
    assert len(head.tried_) == 4
    assert head.training_["rows"] == 160
    some = search.some_rows(task, y, 160, 3)
    Z = StandardScaler().fit_transform(X[some].astype(float)).astype(np.float32)
    folds = search.folds_for(task, y[some], some, 3)
    for each in head.tried_:
        if each.setting["class_weight"] == "none":
            _, (loss,) = search.out_of_fold(Z, y[some], np.array([each.setting["C"]]), folds, task)
            assert each.log_loss.value == pytest.approx(loss, abs=1e-3)
    best, Z = head.tried_[0].setting, StandardScaler().fit_transform(X.astype(float))
    kind = None if best["class_weight"] == "none" else "balanced"
    model = LogisticRegression(C=best["C"], class_weight=kind, tol=1e-8, max_iter=1000)
    if task is KINDS:
        expected = model.fit(Z, y).predict_proba(Z)
    else:
        known = [np.flatnonzero(y[:, k] >= 0) for k in range(3)]
        expected = np.stack([model.fit(Z[of], y[of, k]).predict_proba(Z)[:, 1] for k, of in enumerate(known)], axis=1)
    np.testing.assert_allclose(head.predict_proba(X), expected, atol=2e-3)
    assert any("compared on 160 rows" in note for note in head.notes())


@pytest.mark.tensorflow
def test_adam_heads_of_classes_equal_separate_keras_trainings(monkeypatch):
    """Rates, smoothing, focal loss, seeds, weights: each as Keras trains Dense(K, softmax) on the same batches."""
    _, keras = tensorflow.load()
    X, y = rows(KINDS, 300, 12)
    Z = StandardScaler().fit_transform(X).astype(np.float32)
    rate, smoothing, gamma = np.array([1e-3, 1e-2, 1e-2]), np.array([0, 0.1, 0.1]), np.array([0, 0, 2.0])
    weight = np.ones((300, 3), np.float32)
    weight[y == 1, 1] = 2
    monkeypatch.setattr(solver, "BATCH", 128)
    heads = solver.Adam(rate, smoothing, gamma, np.arange(3))
    *_, fit = Rows(Z, y, None, KINDS).adam(weight, heads, 3, 9)
    limit = np.sqrt(6 / 16)
    for h in range(3):
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(4, "softmax")])
        start = np.random.default_rng(h).uniform(-limit, limit, (12, 4)).astype(np.float32)
        model.set_weights([start, np.zeros(4, np.float32)])
        kind = {"label_smoothing": float(smoothing[h])}
        focal = keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=2.0, **kind)
        loss = focal if gamma[h] else keras.losses.CategoricalCrossentropy(**kind)
        model.compile(keras.optimizers.Adam(float(rate[h])), loss=loss, jit_compile=False)
        rng = np.random.default_rng(9)
        for _ in range(3):
            for at in np.split(rng.permutation(300), range(128, 300, 128)):
                model.train_on_batch(Z[at], np.eye(4, dtype=np.float32)[y[at]], weight[at, h])
        np.testing.assert_allclose(fit.W[..., h], model.get_weights()[0], atol=1e-5)
        np.testing.assert_allclose(fit.b[:, h], model.get_weights()[1], atol=1e-5)


@pytest.mark.parametrize("task", [KINDS, LABELS], ids=["classes", "labels"])
@pytest.mark.parametrize("name", [n for n in registry.HEADS if n not in KERAS])
def test_a_head_of_classes_bears_few_rows(name, task):
    """A row a class, two, or one group a class: probabilities that are numbers, or TooFewRows."""
    for each in (1, 2, 3):
        X, y = rows(task, 4 * each)
        if task is KINDS:
            y = np.repeat(np.arange(4, dtype=np.int16), each)
        for groups in (np.arange(len(y)), np.repeat(np.arange(4), each)):
            head = registry.create(name, 0, sweep.parse("C=0.01 epochs=2 scaling=standard"), task)
            try:
                head.fit(X, y, groups=groups, validation=(X, y))
            except TooFewRows:
                assert name in ("lda", "sweep")
                continue
            assert np.isfinite(head.predict_proba(X)).all()
            assert isinstance(head.notes(), list)
