"""A new option is a new field, and a row in README (tests/test_docs.py holds that)."""

from dataclasses import dataclass

import pytest

from extract import __main__, run, workspace
from extract.flags import given, number, option
from heads import __main__ as heads_main


@dataclass(frozen=True)
class MoreInputs(workspace.Workspace):
    """One option more that is remembered."""

    depth: int = option("layers", 1, of="backbone", read=int, type=number(1))


@dataclass(frozen=True)
class MoreConfig(run.Config):
    """One option more of `make features`."""

    patience: float = option("seconds", 2.5, type=float)


def test_a_new_field_of_workspace_is_a_flag_of_every_verb_and_is_remembered(tmp_path, monkeypatch):
    """It is resolved, described, recorded, and forgotten with the backbone that it belongs to."""
    for module in (workspace, __main__, heads_main):
        monkeypatch.setattr(module, "Workspace", MoreInputs)
    words = ["--out", f"{tmp_path}/o", "--data", f"{tmp_path}/t.csv", "--depth", "3"]
    place = __main__.workspace_of(__main__._parser().parse_args(["features", *words]))
    assert place == __main__.workspace_of(heads_main._parser().parse_args(["train", *words]))
    assert place.depth == 3
    assert place.describe().endswith("DEPTH=3")
    workspace.write_record(place)
    assert workspace.resolve(out=f"{tmp_path}/o").depth == 3
    again = workspace.resolve(out=f"{tmp_path}/o", backbone="efficientnet-b1")
    assert again.depth == 1
    assert "DEPTH" not in again.describe()


def test_a_new_field_of_the_config_is_a_flag(monkeypatch):
    """What is not given is the field's default."""
    monkeypatch.setattr(run, "Config", MoreConfig)
    parse = __main__._parser().parse_args
    assert given(parse(["features", "--patience", "1"]), MoreConfig) == {"patience": 1.0}
    assert given(parse(["features"]), MoreConfig) == {}
    assert given(parse(["features", "--retry", "--batch", "4"]), MoreConfig) == {"retry": True, "batch": 4}


def test_an_input_that_no_field_is_called_after_is_refused():
    """A typing error in a keyword is not ignored."""
    with pytest.raises(TypeError, match="datta"):
        workspace.resolve(datta="t.csv")
