"""The fault campaign in small: each part runs, does its harm, and finds nothing lost, wrong, crashed or hanging."""

import re
import subprocess
import sys

import pytest

from tests.support.album import ROOT

pytestmark = pytest.mark.tensorflow


def campaign(*flags):
    """Run the campaign, in a process that may be forked; return its table's rows, each a list of cells."""
    command = [sys.executable, "-m", "tests.campaign.torture", "--stops=0", "--seed=7", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split(" | ") for line in done.stdout.splitlines() if re.match(r"\| (?!part|---)", line)]


def test_a_short_campaign_loses_nothing(tmp_path):
    """Kills, full disks, damaged caches, mutated images, readers; the new table stands in the old one's place.

    The disks: a limit on files, a file system that is too small, one that is read-only, folders of another's. The verbs
    that need a backbone are killed in `make torture`, and in extract/test_crash at chosen moments.
    """
    report = tmp_path / "report.md"
    report.write_text("before\n<!-- campaign -->\nold\n<!-- end -->\nafter\n")
    harm = ["--kills=1", "--disks=1", "--damages=60", "--files=100", "--seconds=1"]
    rows = campaign(*harm, f"--report={report}", "--only", "damage", "readers", "head", "images")
    assert len(rows) in (
        2 * 6,
        2 * 7,
    )  # each twice; fewer where nothing can be mounted
    assert all(int(cells[1].replace(",", "")) > 0 for cells in rows)
    text = report.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
