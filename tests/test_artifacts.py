"""Files are whole or not there; a dead process holds nothing."""

import signal
import subprocess
import sys

import pytest

from extract import artifacts
from extract.errors import BusyError, InputError
from tests.conftest import ROOT


def test_a_failure_while_writing_leaves_the_old_file_and_no_other(tmp_path):
    """What is published is never half-written."""
    path = tmp_path / "table.csv"
    artifacts.write_csv(path, ("a",), [("old",)])
    with pytest.raises(RuntimeError), artifacts.replacing(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "a\nold\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    """A reader finds the old files or the new ones, never both."""
    for name in ("old", "new"):
        with artifacts.replacing_folder(tmp_path / "head") as folder:
            (folder / name).write_text(name)
    assert [p.name for p in (tmp_path / "head").iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [tmp_path / "head"]


def test_a_folder_caught_between_two_renames_is_put_back(tmp_path):
    """A kill in the middle of a replacement loses nothing: the next run finds the old folder in its place."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".onepass-old-{dead.pid}-head").mkdir()
    (tmp_path / f".onepass-old-{dead.pid}-head" / "head.json").write_text("{}")
    (tmp_path / f".onepass-tmp-{dead.pid}-head").mkdir()
    (tmp_path / "notes.txt").write_text("the user's own")
    artifacts.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head", "notes.txt"]
    assert (tmp_path / "head" / "head.json").exists()


def test_a_lock_refuses_a_second_holder_and_dies_with_its_process(tmp_path):
    """Two runs on one cache do not mix; after a SIGKILL nobody has to remove a lock by hand."""
    path = tmp_path / ".features.h5.lock"
    code = f"""
import sys, time
from pathlib import Path
from extract import artifacts
with artifacts.lock(Path({str(path)!r}), "it"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(BusyError, match=f"Process {holder.pid} is already writing"), artifacts.lock(path, "it"):
        pass
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    holder.stdout.close()
    with artifacts.lock(path, "it"):
        assert path.exists()
    assert not path.exists()


def test_names_that_are_not_utf8_survive_a_table(tmp_path):
    """A file name is bytes; a table must not lose them."""
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    artifacts.write_csv(tmp_path / "t.csv", ("path",), [(name,)])
    assert artifacts.read_csv(tmp_path / "t.csv", ("path",)) == [{"path": name}]


@pytest.mark.parametrize("line", [1, 2, 5])
@pytest.mark.parametrize("cell", [0, 1])
def test_a_table_of_ours_with_a_stray_quote_is_damaged_not_shorter(tmp_path, line, cell):
    """Rows that a quote took in would be forgotten: splits made anew, failures tried again."""
    path = tmp_path / "t.csv"
    artifacts.write_csv(path, ("a", "b"), [(f"x{i}", f"y{i}") for i in range(5)])
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[line][cell] = '"' + lines[line][cell]
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    with pytest.raises(InputError, match="is not as it was written"):
        artifacts.read_rows(path, ("a", "b"))
