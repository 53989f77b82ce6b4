"""What a user did wrong is one paragraph and an exit code, never a traceback."""

import subprocess
import sys

import pytest

from extract import errors
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
