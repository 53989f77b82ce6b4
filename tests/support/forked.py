"""Processes to be killed, forked from one that has imported TensorFlow and computed nothing: no import, no seconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.support.preload"])


class Process:
    """Python code that runs in a process of its own, with its output in files; used like `subprocess.Popen`."""

    def __init__(self, code: str, arguments: Sequence[object], folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._output = folder / "stdout", folder / "stderr"
        given = (code, list(map(str, arguments)), *map(str, self._output))
        self._process = SERVER.Process(target=_run, args=given)
        self._process.start()
        self.pid = self._process.pid

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    @property
    def returncode(self) -> int | None:
        """The exit code, negative: the signal that ended it; None while it runs."""
        return self._process.exitcode

    def communicate(self, timeout: float = 60) -> tuple[str, str]:
        """Wait until it ends; return what it wrote to stdout and stderr."""
        self._process.join(timeout)
        assert self.returncode is not None, f"it still runs after {timeout} s"
        out, err = (path.read_text(encoding="utf-8") for path in self._output)
        return out, err


def _run(code: str, arguments: list[str], *output: str) -> None:
    """Be the process: output to the files, Ctrl-C as in a terminal, `sys.argv` as for a script."""
    for number, path in enumerate(output, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    exec(compile(code, "<forked>", "exec"), {"__name__": "__main__"})
