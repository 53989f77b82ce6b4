"""Figures of many classes and of several labels are scikit-learn's; their standard errors are a jackknife's."""

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn import metrics as sk

from extract.tables.task import BINARY, UNKNOWN, Task
from heads.stats import classes, decision, metrics

MANY = Task("multiclass", ("ant", "bee", "cat", "dog"))
SEVERAL = Task("multilabel", ("ant", "bee", "cat"))
SHARES = (0.5, 0.3, 0.15, 0.05)


def point(threshold=0.0, weight=None):
    return decision.OperatingPoint(decision.DEFAULT, threshold, {}, weight=weight)


def many(n=400, seed=0, size=1, decimals=12):
    """y, p and groups of `size` rows, whose scores share a shift."""
    rng = np.random.default_rng(seed)
    groups, y = np.arange(n) // size, rng.choice(4, n, p=SHARES)
    shifts = rng.normal(size=(n, 4))[groups] * (size > 1)
    p = softmax(rng.normal(size=(n, 4)) + shifts + 2 * (y[:, None] == np.arange(4)), axis=1)
    return y.astype(np.int16), p.round(decimals).clip(0.01, 0.98), groups


def several(n=400, seed=0, size=1, decimals=12, unknown=0.2):
    """The same of three labels, a fifth of whose cells nobody knows."""
    rng = np.random.default_rng(seed)
    groups, y = np.arange(n) // size, (rng.random((n, 3)) < SHARES[1:]).astype(np.int8)
    shifts = rng.normal(size=(n, 3))[groups] * (size > 1)
    p = expit(rng.normal(size=(n, 3)) + shifts + 2 * y - 1)
    y[rng.random((n, 3)) < unknown] = UNKNOWN
    return y, p.round(decimals).clip(0.01, 0.98), groups


def by_label(figure, y, p):
    return np.mean([figure(y[known, at], p[known, at]) for at, known in enumerate((y != UNKNOWN).T)])


@pytest.mark.parametrize("decimals", [1, 12])
def test_values_of_many_classes_are_those_of_scikit_learn(decimals):
    """With ties (rounded scores) and without; a class that no row has is no part of a mean."""
    y, p, groups = many(decimals=decimals)
    p /= p.sum(axis=1, keepdims=True)
    for rows in (y >= 0, y != 2):
        y_, p_ = y[rows], p[rows]
        present, decided = np.unique(y_), p_.argmax(axis=1)
        expected = {
            "accuracy": sk.accuracy_score(y_, decided),
            "balanced_accuracy": np.mean([(decided == y_)[y_ == c].mean() for c in present]),
            "macro_f1": sk.f1_score(y_, decided, labels=present, average="macro"),
            "macro_roc_auc": np.mean([sk.roc_auc_score(y_ == c, p_[:, c]) for c in present]),
            "log_loss": sk.log_loss(y_, p_, labels=range(4)),
            "brier": sk.brier_score_loss(y_, p_, labels=range(4)),
            "ece": metrics.calibration_error(y_ == decided, p_.max(axis=1), np.arange(len(y_))).value,
        }
        found = classes.figures(MANY, y_, p_, groups[rows], point())
        assert list(found) == list(expected)
        assert {name: metric.value for name, metric in found.items()} == pytest.approx(expected, abs=1e-9)
        assert all(metric.low <= metric.value <= metric.high and metric.n == len(y_) for metric in found.values())
    assert sk.roc_auc_score(y, p, multi_class="ovr") == pytest.approx(
        classes.figures(MANY, y, p, groups, point())["macro_roc_auc"].value
    )


@pytest.mark.parametrize("decimals", [1, 12])
def test_values_of_several_labels_are_those_of_scikit_learn(decimals):
    """Of each label on the rows where it is known; accuracy and losses over known cells, exact_match over rows."""
    y, p, groups = several(decimals=decimals)
    threshold = (0.4, 0.5, 0.2)
    called, known = p >= threshold, y != UNKNOWN
    expected = {
        "accuracy": sk.accuracy_score(y[known], called[known]),
        "exact_match": np.mean([(c[k] == t[k]).all() for c, t, k in zip(called, y, known, strict=True)]),
        "balanced_accuracy": by_label(sk.balanced_accuracy_score, y, called),
        "macro_f1": by_label(sk.f1_score, y, called),
        "macro_roc_auc": by_label(sk.roc_auc_score, y, p),
        "log_loss": sk.log_loss(y[known], p[known]),
        "brier": sk.brier_score_loss(y[known], p[known]),
    }
    found = classes.figures(SEVERAL, y, p, groups, point(threshold))
    assert list(found) == [*expected, "ece"]
    assert {name: found[name].value for name in expected} == pytest.approx(expected, abs=1e-9)
    assert {metric.n for metric in found.values()} == {400}


def test_two_classes_are_measured_as_before_and_one_label_gets_the_same_values():
    """One entry for all tasks; the closed forms are about as wide as the bootstrap's intervals."""
    y, p, groups = several(1000, size=2, unknown=0)
    y, p = y[:, 0], p[:, 0]
    binary = classes.figures(BINARY, y, p, groups, point(0.4), seed=3)
    assert binary == metrics.evaluate(y, p, groups, threshold=0.4, seed=3)
    label = classes.figures(Task("multilabel", ("ant",)), y[:, None], p[:, None], groups, point((0.4,)))
    names = {name: name.removeprefix("macro_") for name in label if name != "exact_match"}
    for ours, theirs in names.items():
        assert label[ours].value == pytest.approx(binary[theirs].value, abs=1e-9), ours
        widths = [figures.high - figures.low for figures in (label[ours], binary[theirs])]
        assert widths[0] == pytest.approx(widths[1], rel=0.15), ours


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize(("task", "draw", "threshold"), [(MANY, many, 0.0), (SEVERAL, several, (0.5, 0.3, 0.2))])
def test_standard_errors_are_those_of_leaving_groups_out(task, draw, threshold, size):
    """A jackknife of what the intervals of means over classes and of losses rest on, of single rows and of groups."""
    y, p, groups = draw(200 * size, seed=4, size=size)

    def measured(rows):
        cells = classes.Cells.of(task, y[rows], task.decide(p[rows], threshold))
        sides = cells.recalls(both=task is SEVERAL), cells.agreements(), cells.placements(p[rows])
        return [classes._over_classes([*s], groups[rows], alike=s is sides[2]) for s in sides]

    left_out = np.array([[value for value, *_ in measured(groups != name)] for name in range(200)])
    errors = np.sqrt(199 / 200 * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0))
    everything = measured(slice(None))
    assert [classes._error(influence) for _, influence, _ in everything] == pytest.approx(errors, rel=0.1)
    found = classes.figures(task, y, p, groups, point(threshold))
    names = ("balanced_accuracy", "macro_f1", "macro_roc_auc")
    assert [found[name].value for name in names] == [value for value, *_ in everything]
    loss, plain = found["log_loss"], metrics.mean_loss(classes.row_losses(task, y, p), groups)
    width = np.log([loss.high / loss.low, plain.high / plain.low])
    assert loss.value == pytest.approx(plain.value)
    assert width[0] == pytest.approx(width[1], rel=1e-9 if task is MANY else 0.2)


def test_unsure_is_wrong_and_counted():
    """Below the threshold no class is said: accuracy, recall and F1 fall; a weight moves choices."""
    y, p, groups = many()
    decided = MANY.decide(p, 0.6)
    found = classes.figures(MANY, y, p, groups, point(0.6))
    assert list(found)[:2] == ["accuracy", "answered"]
    assert found["answered"].value == (p.max(axis=1) >= 0.6).mean() < 1
    assert found["accuracy"].value == (decided == y).mean()
    assert found["macro_f1"].value == pytest.approx(sk.f1_score(y, decided, labels=range(4), average="macro"))
    assert found["ece"] == classes.figures(MANY, y, p, groups, point())["ece"]
    for at, each in enumerate(classes.per_class(MANY, y, decided, groups)):
        assert (each.name, each.n) == (MANY.classes[at], (y == at).sum())
        assert each.precision == metrics.proportion(y[decided == at] == at, groups[decided == at])
        assert each.recall == metrics.proportion(decided[y == at] == at, groups[y == at])
        assert each.to_json()["recall"]["value"] == each.recall.value
    weighed = classes.figures(MANY, y, p, groups, point(0.0, (1, 1, 1, 40)))
    assert weighed["accuracy"].value == (MANY.decide(p, 0, (1, 1, 1, 40)) == y).mean()


def test_what_rows_add_has_the_figure_as_its_mean():
    """Paired differences and leaks take rows; unknown cells add nothing, and a row with few weighs less."""
    for task, (y, p, groups), threshold in ((MANY, many(), 0.5), (SEVERAL, several(), (0.5,) * 3)):
        found = classes.figures(task, y, p, groups, point(threshold))
        losses, hits = classes.row_losses(task, y, p), classes.row_hits(task, y, task.decide(p, threshold))
        assert losses.shape == hits.shape == (400,)
        assert [losses.mean(), hits.mean()] == pytest.approx([found["log_loss"].value, found["accuracy"].value])
    y, p, _ = several(unknown=0)
    y, p = y[:, 0], p[:, 0]
    np.testing.assert_array_equal(classes.row_losses(BINARY, y, p), metrics.log_losses(y, p))
    np.testing.assert_array_equal(classes.row_hits(BINARY, y, p >= 0.5), ((p >= 0.5) == y).astype(np.float64))


def test_confusions_are_those_of_scikit_learn_worst_first():
    """What is unsure is confused with nothing."""
    y, p, _ = many()
    decided = MANY.decide(p, 0.5)
    expected = sk.confusion_matrix(y, decided, labels=range(4))
    np.testing.assert_array_equal(classes.matrix(MANY, y, decided), expected)
    pairs = classes.confusions(MANY, y, decided)
    assert [n for *_, n in pairs] == sorted(
        (n for n in (expected - np.diag(np.diag(expected))).flat if n), reverse=True
    )
    assert all(expected[MANY.classes.index(true), MANY.classes.index(said)] == n for true, said, n in pairs)


def test_of_several_labels_a_missed_one_is_confused_with_one_said_wrongly():
    """Or with none, on either side; a label that nobody knows is neither."""
    values = ["ant|bee", "ant", "ant", "cat", "none", "ant|?cat", "?ant|bee"]
    said = ["ant|bee", "bee", "bee|cat", "none", "cat", "cat", "ant|bee"]
    y, decided = SEVERAL.encode(values), SEVERAL.encode(said) == 1
    assert classes.matrix(SEVERAL, y, decided).tolist() == [[1, 2, 1], [0, 2, 0], [0, 0, 0]]
    assert classes.confusions(SEVERAL, y, decided) == [
        ("ant", "bee", 2),
        ("ant", "cat", 1),
        ("ant", "none", 1),
        ("cat", "none", 1),
        ("none", "cat", 1),
    ]


@pytest.mark.parametrize("case", ["perfect", "hopeless", "constant", "one group", "one image a class"])
@pytest.mark.parametrize("task", [MANY, SEVERAL])
def test_no_interval_vanishes_or_leaves_its_range(task, case):
    """100 % on 60 rows is no certainty, nor is a class of one image that is found."""
    y = np.arange(60, dtype=np.int16) % 4 if case != "one image a class" else np.r_[np.zeros(57, np.int16), 1, 2, 3]
    cells = (y[:, None] == np.arange(task.columns)).astype(np.int8)
    p = {"hopeless": (1 - cells) / 3, "constant": np.full(cells.shape, 0.25)}.get(case, cells * 0.9 + 0.025)
    groups = np.zeros(60, int) if case == "one group" else np.arange(60)
    found = classes.figures(task, y if task is MANY else cells, p, groups, point(0.0 if task is MANY else (0.5,) * 3))
    for name, m in found.items():
        assert 0 <= m.low < m.high, name
        assert m.high <= {"log_loss": np.inf, "brier": 2}.get(name, 1), name
        assert m.low - 1e-15 <= m.value <= m.high, name


def test_copies_in_a_group_add_no_certainty():
    """Each row ten times over, in one group: the intervals stay those of the single rows."""
    for task, (y, p, _), threshold in ((MANY, many(100), 0.0), (SEVERAL, several(100), (0.5,) * 3)):
        tenfold = np.repeat(y, 10, axis=0), np.repeat(p, 10, axis=0)
        once = classes.figures(task, y, p, np.arange(100), point(threshold))
        copied = classes.figures(task, *tenfold, np.arange(1000) // 10, point(threshold))
        for name in once:
            width = once[name].high - once[name].low
            assert copied[name].high - copied[name].low == pytest.approx(width, rel=0.1), name
            assert (copied[name].value, copied[name].groups) == (pytest.approx(once[name].value), once[name].groups)


@pytest.mark.parametrize(("task", "draw", "threshold"), [(MANY, many, 0.0), (SEVERAL, several, (0.5,) * 3)])
def test_rows_of_one_class_alone_have_figures_but_no_auc(task, draw, threshold):
    """As where leaks are set aside: what is left may lack classes."""
    y, p, groups = draw()
    rows = y == 0 if task is MANY else (y == 0).all(axis=1)
    found = classes.figures(task, y[rows], p[rows], groups[rows], point(threshold))
    assert found.pop("macro_roc_auc") == metrics.Metric(None, 0.0, 1.0, 0, 0)
    if task is SEVERAL:
        assert found.pop("macro_f1") == metrics.Metric(None, 0.0, 1.0, 0, 0)
    assert found["balanced_accuracy"].value == pytest.approx(found["accuracy"].value)
    assert all(metric.low < metric.high for metric in found.values())
