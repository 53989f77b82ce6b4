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
    """Kills, damaged caches, mutated images, readers; and the report holds the new table in the place of the old."""
    report = tmp_path / "report.md"
    report.write_text("before\n<!-- campaign -->\nold\n<!-- end -->\nafter\n")
    harm = ["--kills=1", "--disks=0", "--damages=60", "--files=200", "--seconds=1"]
    rows = campaign(*harm, f"--report={report}", "--only", "damage", "readers", "export", "head", "images")
    assert len(rows) == 2 * 5  # each as it ends, and once more in the table
    assert all(int(cells[1].replace(",", "")) > 0 for cells in rows)
    text = report.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text


def test_a_disk_that_takes_no_more_costs_nothing_that_was_published():
    """A limit on files, a file system that is too small, one that is read-only, folders of another's."""
    rows = campaign("--kills=0", "--disks=1", "--only", "head")
    assert len(rows) in (2 * 2, 2 * 3)  # no file system is too small where none can be mounted
