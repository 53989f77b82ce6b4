"""What a user did wrong is one paragraph and an exit code, never a traceback."""

import ast
import os
import pickle
import re
import shutil
import subprocess
import sys

import pytest

from extract.__main__ import main
from extract.backbones import backbone
from extract.files import manifest
from extract.ground import errors, files
from extract.tables import labels
from extract.workspace import Workspace, write_record
from tests.support.album import ROOT, read_rows


def raised(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            errors.InputError("a-code", "It is so", rule="It should be thus", then="Do this"),
            1,
            "It is so. It should be thus. Do this.",
        ),
        (errors.UsageError("head-unknown", "No such head"), 2, "No such head."),
        (KeyboardInterrupt(), 1, "run the same command again"),
        (PermissionError(13, "Permission denied", "/out"), 1, "Permission denied: '/out'"),
    ],
)
def test_an_error_is_one_paragraph_and_a_code(error, code, said, capsys):
    """Event, rule, next command."""
    assert errors.guard(raised(error)) == code
    text = capsys.readouterr().err
    assert text.startswith("onepass: ")
    assert said in text
    assert text.count("\n") == 1


def test_every_error_has_a_code_in_kebab_case_that_stands_in_the_source():
    """Programs and tests hold on to codes: one that is put together at run time could not be searched for."""
    kinds = {kind.__name__ for kind in (errors.OnepassError, *errors.OnepassError.__subclasses__(), errors.TooFewRows)}
    for path in [*ROOT.glob("extract/**/*.py"), *ROOT.glob("heads/**/*.py")]:
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and getattr(call.func, "id", getattr(call.func, "attr", "")) in kinds:
                code = call.args[0]
                assert isinstance(code, ast.Constant), f"{path}:{call.lineno}"
                assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+|busy|interrupted", code.value), f"{path}:{call.lineno}"


def test_an_error_keeps_its_code_and_words_between_processes():
    """Slices of a cluster raise where others read."""
    error = pickle.loads(pickle.dumps(errors.CacheError("cache-damaged", "It is so", then="Do this")))
    assert (error.code, str(error)) == ("cache-damaged", "It is so. Do this.")


def test_a_reader_that_leaves_is_no_error_message():
    """`... | head -1` closes the pipe."""
    code = "from extract.ground.errors import guard; guard(lambda: [print('x' * 99) for _ in range(9999)] and 0)"
    command = f'{sys.executable} -c "{code}" | head -1'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("batch", ["0", "-1", "many"])
def test_numbers_out_of_range_are_wrong_usage(batch, capsys):
    """Exit code 2, by argparse."""
    with pytest.raises(SystemExit) as stopped:
        main(["features", "--batch", batch])
    assert stopped.value.code == 2
    assert "expected a whole number >= 1" in capsys.readouterr().err


@pytest.mark.parametrize("steering", ["\x1b[2J\x1b[31m", "\x07\x08", "\rspoofed", "\x9b2J", "\u202egpj", "\x00"])
def test_no_message_steers_the_terminal(steering, capsys, tmp_path):
    """What a table or a file's name holds is shown as Python writes it, in our errors and in the system's."""
    for error in (
        errors.InputError("a-code", f"no {steering} here"),
        OSError(2, "No such file", steering),
        OSError(steering),
    ):
        assert errors.guard(raised(error)) == 1
    said = capsys.readouterr().err
    assert said.replace("\n", "").isprintable()
    assert said.count(repr(steering)[1:-1]) >= 2


def test_notes_on_a_tables_ids_do_not_steer_the_terminal():
    """Conflicts name ids as they stand in the table."""
    said = labels._count([("copies in two splits", "\x1b[31mred", "s", "0", "train", "")])
    assert said == [r"copies in two splits: 1 rows (\x1b[31mred)"]


def test_words_of_libraries_keep_their_lines_and_letters():
    """Only what is not seen is written out."""
    assert errors.visible("größe 猫 'é'\nnext line") == "größe 猫 'é'\nnext line"


def locale_of(tmp_path, charmap):
    """Return the environment of a user whose locale is not UTF-8, and who has Python's own remedies off."""
    env = {name: text for name, text in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    env |= {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    if charmap == "ISO-8859-1":
        if not shutil.which("localedef"):
            pytest.skip("localedef is not installed")  # makes the locale; Debian has it, slim images may not
        where = tmp_path / "locales" / "latin"
        where.parent.mkdir()
        made = subprocess.run(["localedef", "-i", "en_US", "-f", charmap, str(where)], capture_output=True)
        if not (where / "LC_CTYPE").exists():
            pytest.skip(f"no {charmap}: {made.stderr.decode()}")  # its sources are a package of their own
        return env | {"LOCPATH": str(where.parent), "LC_ALL": "latin"}
    return env | {"LC_ALL": charmap}


# several verbs, as if each were a command of its own
VERBS = """if True:
    import runpy, sys
    words = sys.argv[1:] + ["--"]
    while words:
        end = words.index("--")
        (package, *sys.argv[1:]), words = words[:end], words[end + 1:]
        try:
            runpy.run_module(package, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            if ended.code:
                sys.exit(ended.code)
"""
NAMES = "import sys; print(ascii(sys.argv[1]), sys.getfilesystemencoding(), sys.stdout.encoding)"


@pytest.mark.parametrize("charmap", ["C", "ISO-8859-1"])
def test_names_are_the_same_in_any_locale(photos, tmp_path, charmap):
    """Photos, table, classes and outputs with accents, Greek and an emoji: each verb gives what it gives in UTF-8."""
    env = locale_of(tmp_path, charmap)
    done = subprocess.run([sys.executable, "-c", NAMES, "é"], env=env, capture_output=True, text=True, check=True)
    assert "utf-8" not in done.stdout, "else nothing is tested"
    media, table, classes = tmp_path / "médias ✓", tmp_path / "étiquettes.csv", {"0": "chien à é", "1": "γάτα"}
    media.mkdir()
    rows = []
    for number, row in enumerate(read_rows(photos.data)):
        source = next(path for path in photos.media.rglob(row["objectId"]))
        name = f"{number}-é🐈.jpg"
        shutil.copy(source, media / name)
        rows.append((name, classes[row["value"]], row["type"], ""))
    files.write_csv(table, ("objectId", "value", "type", "group"), rows)
    made = files.read_rows(photos.out / "manifest.csv", manifest.COLUMNS)
    by_digest = {row[2]: row[2:] for row in made}
    found = [(name, str(media / name), backbone.file_digest(media / name)) for name, *_ in rows]
    files.write_csv(photos.out / "manifest.csv", manifest.COLUMNS, [(*each[:2], *by_digest[each[2]]) for each in found])
    (photos.out / "last_run.json").unlink()
    place = Workspace(tmp_path / "öut", tmp_path / "öut" / "features.h5", table, media, "none")
    photos.out.rename(place.out)
    write_record(place)
    words = "heads train --out öut --head logistic -- heads predict --out öut --output prédit.csv"
    words += " -- heads labels --out öut -- extract link-tree --cache öut/features.h5 --out árbol"
    command = [sys.executable, "-c", VERBS, *words.split()]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    assert b"Traceback" not in done.stderr
    done.stdout.decode("latin-1" if charmap == "ISO-8859-1" else "ascii")
    predicted = read_rows(tmp_path / "prédit.csv")
    assert [row["path"] for row in predicted] == [str(media / name) for name, *_ in rows]
    assert {row["status"] for row in predicted} == {"ok"}
    assert {row["decision"] for row in predicted} <= set(classes.values())
    assert [tuple(row.values()) for row in read_rows(place.out / "labels.csv")] == rows
    links = sorted(path.relative_to(tmp_path / "árbol").as_posix() for path in (tmp_path / "árbol").rglob("*.jpg"))
    assert links == sorted(f"{split}/{value}/{name}" for name, value, split, _ in rows)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_any_name_can_be_printed_to_any_terminal(tmp_path, encoding):
    """On stdout as on stderr; what the terminal lacks is an escape."""
    code = "import sys; from extract.ground.errors import *; sys.exit(guard(lambda: print('é 🐈 \\udce9') or 1 / 0))"
    code = code.replace("1 / 0", "(_ for _ in ()).throw(InputError('a-code', 'é 🐈 \\udce9'))")
    env = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
    assert done.returncode == 1
    for stream in (done.stdout, done.stderr):
        assert "\\U0001f408 \\udce9" in stream.decode(encoding)
    assert b"Traceback" not in done.stderr
