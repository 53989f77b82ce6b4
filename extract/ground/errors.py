"""What a user is told when something cannot be done: one paragraph with event, value, rule and next command."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

DONE, FAILED, USAGE, TOO_MANY_BAD = 0, 1, 2, 3


def visible(text: str) -> str:
    """Return a text with its control and other unseen characters as Python writes them: no name steers a terminal.

    Line feeds stay, for the words of libraries.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


class OnepassError(Exception):
    """Something the user can mend. `str()` is the whole message, ready to print.

    code: what kind of trouble, in kebab case; it stays when words change, so programs and tests hold on to it.
    event: what happened, with the value that caused it.
    rule: what would have been right.
    then: what to do or to run next.
    """

    exit_code = FAILED

    def __init__(self, code: str, event: str, *, rule: str = "", then: str = "") -> None:
        sentences = (text.strip().removesuffix(".") + "." for text in (event, rule, then) if text)
        super().__init__(code, visible(" ".join(sentences)))
        self.code = code

    def __str__(self) -> str:
        return str(self.args[1])


class UsageError(OnepassError):
    """The command itself was wrong."""

    exit_code = USAGE


class InputError(OnepassError):
    """A table or its images cannot be used as they are."""


class BackboneError(OnepassError):
    """A backbone cannot be found, loaded or run."""


class CacheError(OnepassError):
    """A cache or part is damaged, or belongs to another recipe."""


class HeadError(OnepassError):
    """A head cannot be trained, loaded, exported or used on this cache."""


class TooFewRows(HeadError):
    """Train is too small for this one head; others may do with less."""


class BusyError(OnepassError):
    """Another process holds the file, or nothing can say whether one does."""


class Interrupted(OnepassError):
    """Ctrl-C or SIGTERM; what was finished is kept."""


def in_utf8() -> None:
    """Start this process anew in Python's UTF-8 mode where the locale is no UTF-8: the names in tables are.

    Else a name of a table and the same name of a file would differ. What is printed stays in the terminal's encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    terminal = f"{getattr(sys.stdout, 'encoding', None) or 'ascii'}:backslashreplace"
    os.environ |= {"PYTHONUTF8": "1", "PYTHONIOENCODING": os.environ.get("PYTHONIOENCODING") or terminal}
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def guard(command: Callable[[], int]) -> int:
    """Run a command and return its exit code; a user's mistake becomes one paragraph on stderr, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: a file's name may hold bytes that are no text
    try:
        return command()
    except OnepassError as error:
        print(f"onepass: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("onepass: Interrupted. Earlier results are intact; run the same command again.", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # whoever read our output, `head` say, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a full disk, a read-only folder: the system's own words name the path
        print(
            f"onepass: {visible(str(error))}. Earlier results are intact. Fix this and rerun the same command.",
            file=sys.stderr,
        )
        return FAILED
