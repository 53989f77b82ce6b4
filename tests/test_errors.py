"""What a user did wrong is one paragraph and an exit code, never a traceback."""

import subprocess
import sys

import pytest

from extract import errors, labels
from extract.__main__ import main
from tests.conftest import ROOT


def raised(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (
            errors.InputError("It is so", rule="It should be thus", then="Do this"),
            1,
            "It is so. It should be thus. Do this.",
        ),
        (errors.UsageError("No such head"), 2, "No such head."),
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


def test_a_reader_that_leaves_is_no_error_message():
    """`... | head -1` closes the pipe."""
    code = "import sys; from extract.errors import guard; guard(lambda: [print('x' * 99) for _ in range(9999)] and 0)"
    command = f'{sys.executable} -c "{code}" | head -1'
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""


@pytest.mark.parametrize("batch", ["0", "-1", "many"])
def test_numbers_out_of_range_are_wrong_usage(batch, capsys):
    """Exit code 2, by argparse."""
    with pytest.raises(SystemExit) as stopped:
        main(["features", "--batch", batch])
    assert stopped.value.code == 2
    assert "no whole number of at least 1" in capsys.readouterr().err


@pytest.mark.parametrize("steering", ["\x1b[2J\x1b[31m", "\x07\x08", "\rspoofed", "\x9b2J", "\u202egpj", "\x00"])
def test_no_message_steers_the_terminal(steering, capsys, tmp_path):
    """What a table or a file's name holds is shown as Python writes it, in our errors and in the system's."""
    for error in (errors.InputError(f"no {steering} here"), OSError(2, "No such file", steering), OSError(steering)):
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
