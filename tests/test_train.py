"""Training and comparing: figures with intervals, test read for whom it may be, the same numbers again."""

import json

import numpy as np
import pytest

from heads import dataset, registry, report, train
from tests.conftest import read_rows


def run(place, names):
    data = dataset.join(place)
    heads, chosen = train.run(place, data, train.Config(names))
    return data, heads, chosen


def test_metrics_are_published_with_interval_and_n(cached):
    """metrics.json as the design fixes it."""
    data, _, _ = run(cached, ["logistic"])
    found = json.loads((cached.out / "heads" / "logistic" / "metrics.json").read_text())
    assert found["selected_on"] == "validation"
    for split in ("validation", "test"):
        accuracy = found[split]["accuracy"]
        assert accuracy["low"] < accuracy["value"] < accuracy["high"]
        assert accuracy["n"] == len(data.parts[split])
    facts = json.loads((cached.out / "heads" / "logistic" / "head.json").read_text())
    assert facts["table_digest"] == data.table_digest
    assert facts["fingerprint"] == data.cache.fingerprint
    assert facts["rows"] == data.counts()


def test_test_is_read_for_the_chosen_head_and_the_baselines_only(cached):
    """Looking at every head's test figures would be choosing on test."""
    _, heads, chosen = run(cached, ["majority", "logistic"])
    assert chosen == "logistic"
    assert {head.name: sorted(head.figures) for head in heads} == {
        "majority": ["validation"],
        "logistic": ["test", "validation"],
    }
    rows = read_rows(cached.out / "heads" / "majority" / "predictions.csv")
    assert {row["type"] for row in rows} == {"validation"}


@pytest.mark.tensorflow
def test_a_comparison_covers_the_registry_and_a_rerun_gives_the_same_numbers(cached):
    """Terminal, CSV and JSON say the same; only the seconds differ."""
    data, heads, chosen = run(cached, list(registry.COMPARED))
    report.write(cached, data, heads, chosen)
    first = (cached.out / "comparison.csv").read_text()
    assert [head.name for head in heads] == list(registry.COMPARED)
    table = report.table(heads, chosen)
    assert f"{chosen} *" in table
    told = json.loads((cached.out / "comparison.json").read_text())
    assert told["chosen"] == chosen
    by_name = {row["head"]: row for row in told["heads"]}
    for row in read_rows(cached.out / "comparison.csv"):
        m = by_name[row["head"]]["metrics"][row["split"]][row["metric"]]
        assert float(row["low"]) == m["low"] < float(row["high"]) == m["high"]
        assert (row["chosen"] == "True") == (row["head"] == chosen)
    data, heads, chosen = run(cached, list(registry.COMPARED))
    report.write(cached, data, heads, chosen)
    assert (cached.out / "comparison.csv").read_text() == first
    assert (cached.out / "heads" / "sigmoid" / "tensorboard" / "train").is_dir()


@pytest.mark.tensorflow
def test_an_undertrained_sigmoid_says_so(cached):
    """On small data the original's ten epochs are few steps."""
    data, heads, chosen = run(cached, ["sigmoid"])
    assert any("10 optimiser steps; the original took 380" in note for note in report.legend(data, heads, chosen))


def test_few_groups_are_said_under_the_table(tmp_path):
    """An interval from 8 groups is approximate, and the reader is told."""
    from benchmarks import synthetic

    data, heads, chosen = run(synthetic.workspace(tmp_path, 400, 8, group_size=5), ["logistic"])
    assert any("approximate (under 40 groups)" in line for line in report.legend(data, heads, chosen))


def test_a_retrained_head_replaces_the_old_one_whole(cached):
    """No file of an earlier training stays in the folder."""
    run(cached, ["logistic"])
    folder = cached.out / "heads" / "logistic"
    (folder / "left-over").touch()
    before = np.load(folder / "weights.npz")["kernel_0"]
    run(cached, ["logistic"])
    assert not (folder / "left-over").exists()
    np.testing.assert_array_equal(np.load(folder / "weights.npz")["kernel_0"], before)
    assert [p.name for p in (cached.out / "heads").iterdir()] == ["logistic"]
