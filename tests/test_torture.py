"""The fault campaign in small: each part runs, does its harm, and finds nothing lost, wrong, crashed or hanging."""

import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.tensorflow


def test_a_short_campaign_loses_nothing(tmp_path):
    """Kills, full disks, damaged caches, mutated images, readers: in a process that may be forked."""
    report = tmp_path / "report.md"
    report.write_text("before\n<!-- campaign -->\nold\n<!-- end -->\nafter\n")
    command = [sys.executable, "-m", "tests.torture", "--kills=1", "--stops=0", "--disks=1", "--damages=60"]
    command += ["--files=200", "--seconds=1", "--seed=7", f"--report={report}"]
    command += ["--only", "damage", "readers", "features again", "images"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    text = report.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| (?!part|---)", line)]
    assert len(rows) == 5
    assert all(int(cells[1].replace(",", "")) > 0 for cells in rows)
