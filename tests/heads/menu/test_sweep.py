"""A sweep compares settings by folds inside train, says what it tried, and its winner is a head like any other."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler, normalize

from heads import train
from heads.__main__ import main
from heads.data import dataset
from heads.menu import sweep
from heads.menu.layers import forward
from heads.menu.search import folds_by_group
from heads.menu.sweep import SweepHead
from tests.support import synthetic
from tests.support.refusal import refusal

SMALL = "C=0.001,0.1 learning_rate=0.01 label_smoothing=0 focal_gamma=0 epochs=2,5"


@pytest.fixture(scope="module")
def data():
    X, y = synthetic.features(400, 16, seed=0)
    return X + 1, y, np.arange(400) // 4


@pytest.fixture(scope="module")
def swept(data):
    X, y, groups = data
    return SweepHead(sweep.parse(SMALL), seed=3).fit(X, y, groups=groups)


def scaled_by_scikit_learn(X, scaling):
    """The three scalings, in scikit-learn's words, float64."""
    X = X.astype(np.float64)
    if scaling == "standard":
        return StandardScaler().fit_transform(X)
    unit = normalize(X)
    return StandardScaler().fit_transform(unit) if scaling == "both" else unit * np.sqrt(X.shape[1])


def test_the_default_axes_hold_two_hundred_heads_and_more():
    """What SWEEP=1 means, on one screen."""
    assert sum(np.prod([len(v) for v in axes.values()]) for axes in sweep.parse("1").values()) >= 200
    assert sweep.parse("") == sweep.AXES


def test_each_figure_is_scikit_learns_by_the_same_folds(data, swept):
    """Out-of-fold log loss of each logistic setting, refitted one by one."""
    X, y, groups = data
    folds = folds_by_group(y, groups, 3)
    rows = [each for each in swept.tried_ if each.solver == "logistic"]
    assert len(rows) == 12
    for each in rows:
        Z, p = scaled_by_scikit_learn(X, each.setting["scaling"]), np.empty(len(y))
        weight = (len(y) / (2 * np.bincount(y)))[y] if each.setting["class_weight"] == "balanced" else np.ones(len(y))
        for rest, held_out in folds:
            assert not set(groups[rest]) & set(groups[held_out])
            model = LogisticRegression(C=each.setting["C"], tol=1e-8, max_iter=1000).fit(Z[rest], y[rest], weight[rest])
            p[held_out] = model.predict_proba(Z[held_out])[:, 1]
        assert each.log_loss.value == pytest.approx(log_loss(y, p), abs=1e-5)
        assert each.accuracy == pytest.approx(np.mean((p >= 0.5) == y), abs=1 / len(y))


def test_each_settings_layers_are_its_fit_on_all_of_train(data, swept):
    """Scaling is folded in, so the layers take raw features."""
    X, y, _ = data
    for each in swept.tried_:
        if each.solver == "logistic" and each.setting["class_weight"] == "none":
            Z = scaled_by_scikit_learn(X, each.setting["scaling"])
            oracle = LogisticRegression(C=each.setting["C"], tol=1e-8, max_iter=1000).fit(Z, y).predict_proba(Z)[:, 1]
            np.testing.assert_allclose(forward(each.layers, X), oracle, atol=1e-4)


def test_the_winner_is_the_lowest_and_epochs_are_taken_on_the_way(data, swept):
    """Two lengths of one Adam training are two rows that differ."""
    losses = [each.log_loss.value for each in swept.tried_]
    assert losses == sorted(losses)
    np.testing.assert_array_equal(swept.predict_proba(data[0])[:, 1], forward(swept.tried_[0].layers, data[0]))
    by_epochs = {each.setting["epochs"]: each for each in swept.tried_ if each.solver == "adam"}
    assert set(by_epochs) == {2, 5}
    assert by_epochs[2].log_loss.value > by_epochs[5].log_loss.value


def test_a_rerun_gives_the_same_figures(data, swept):
    """Every figure can be had again."""
    X, y, groups = data
    again = SweepHead(sweep.parse(SMALL), seed=3).fit(X, y, groups=groups)
    assert [each.row() for each in again.tried_] == [each.row() for each in swept.tried_]


@pytest.mark.parametrize(
    ("text", "code", "rule"),
    [
        ("depth=3", "sweep-axis-unknown", "scaling, class_weight, C"),
        ("C", "sweep-axis-unknown", "'C'"),
        ("C=-1", "sweep-value-invalid", "C=-1"),
        ("C=nan", "sweep-value-invalid", "C=nan"),
        ("C=1e300", "sweep-value-invalid", "C is a number >= 1e-12 and < 1e+12"),
        ("learning_rate=1e300", "sweep-value-invalid", "< 1000"),
        ("epochs=1.5", "sweep-value-invalid", "epochs is a whole number >= 1."),
        ("scaling=raw", "sweep-value-invalid", "scaling is one of standard, unit, both"),
        ("C= epochs=", "sweep-empty", "C= epochs="),
    ],
)
def test_an_axis_that_cannot_be_read_is_refused(text, code, rule):
    """With the axes, or with what the axis may hold."""
    with refusal(code, rule):
        sweep.parse(text)


def test_an_empty_axis_leaves_its_family_out():
    """`C=` turns the logistic heads off."""
    assert set(sweep.parse("C=")) == {"adam"}
    assert set(sweep.parse("learning_rate=")) == {"logistic"}


def test_a_value_that_is_named_twice_is_one_head():
    """So the count of heads is that of different ones."""
    assert sweep.parse("C=0.01,1e-2 epochs=10,30,10")["logistic"]["C"] == (0.01,)
    assert sweep.parse("C=0.01,1e-2 epochs=10,30,10")["adam"]["epochs"] == (10, 30)


def test_a_setting_whose_loss_is_no_number_is_never_the_best(data, monkeypatch):
    """A NaN sorts nowhere: without care the winner would depend on where it stands."""
    X, y, groups = data
    measured = sweep._Columns.tried

    def tried(self, *given):
        for each in measured(self, *given):
            lost = replace(each.log_loss, value=float("nan")) if each.setting["C"] in (1e-3, 1e-1) else each.log_loss
            yield replace(each, log_loss=lost)

    monkeypatch.setattr(sweep._Columns, "tried", tried)
    found = SweepHead(sweep.parse("scaling=standard class_weight=none C=0.001,0.00001,0.1,0.01 epochs=")).fit(
        X, y, groups=groups
    )
    assert [each.setting["C"] for each in found.tried_[:2]] == [0.01, 0.00001]


def test_too_few_groups_are_an_error_not_a_guess(data):
    """One group of each class cannot be cross-validated."""
    X, y, _ = data
    with refusal("too-few-groups", "SWEEP"):
        SweepHead().fit(X, y, groups=y.astype(int))


def test_the_verb_publishes_the_winner_with_its_table(cached, capsys):
    """A bundle like any other, the table beside it, the winner named under the comparison."""
    assert main(["train", "--out", str(cached.out), "--head", "logistic", "--sweep", SMALL]) == 0
    told = capsys.readouterr().out
    assert "sweep: best of 16 heads x 5 folds by log loss inside train: " in told
    folder = cached.out / "heads" / "sweep"
    facts = json.loads((folder / "head.json").read_text())
    with (folder / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == facts["training"]["heads"] == 16
    assert float(rows[0]["log_loss"]) == pytest.approx(facts["training"]["cv_log_loss"]["value"])
    assert float(rows[0]["low"]) < float(rows[0]["log_loss"]) < float(rows[0]["high"])


def test_validation_is_not_looked_at_by_the_sweep(cached):
    """Another validation split leaves its choice and its weights as they are."""
    data = dataset.join(cached)
    config = train.Config(["sweep"], axes=sweep.parse(SMALL))
    first = train.fit("sweep", data, config, None)
    data.parts["validation"] = data.parts["test"]
    second = train.fit("sweep", data, config, None)
    np.testing.assert_array_equal(first.bundle.model[0].kernel, second.bundle.model[0].kernel)
