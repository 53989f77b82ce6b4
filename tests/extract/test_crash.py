"""A kill at any moment loses at most the parts in flight; Ctrl-C stops within a batch and says how to go on."""

import signal
import time
from dataclasses import replace

import numpy as np
import pytest

from extract import run, workspace
from extract.store import cache
from tests.support import forked

pytestmark = pytest.mark.tensorflow

# the stage in a process of its own, slowed so that there is a middle to be killed in; a part every 8 images
SLOW = """
import sys, time
from extract.backbones import backbone
from extract import run, workspace
from extract.ground.errors import guard
from extract.store import parts
parts.PART_ROWS = 8
embed = backbone.Backbone.embed
def slowly(self, pixels):
    time.sleep(DELAY)
    return embed(self, pixels)
backbone.Backbone.embed = slowly
place = workspace.resolve(data=sys.argv[1], media=sys.argv[2], backbone=sys.argv[3], out=sys.argv[4])
sys.exit(guard(lambda: run.extract(run.Config(place, batch=4))))
"""


def start(place, out, prelude="", delay=0.3):
    """Start the stage; `prelude` is run before it."""
    code = prelude + SLOW.replace("DELAY", f"{delay}")
    return forked.Process(code, [place.data, place.media, place.backbone, out], out.with_name(f"{out.name} said"))


def wait_for_parts(out, n):
    deadline = time.monotonic() + 60
    while len(list((out / "features.parts").glob("part-*"))) < n:
        assert time.monotonic() < deadline, "no parts came"
        time.sleep(0.01)


def rows_of(path):
    found = cache.verify(path)
    return found.sha256.tolist(), found.read(np.arange(len(found)))


@pytest.mark.usefixtures("extracted")
def test_a_killed_run_resumes_to_the_same_rows_and_features(place, tmp_path):
    """SIGKILL, then once to the end: as if nothing had happened, and nothing is left lying."""
    expected = rows_of(place.cache)
    out = tmp_path / "killed"
    process = start(place, out)
    wait_for_parts(out, 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    embedded_before = sum(len(part) for part in cache.open_parts(out / "features.parts"))
    assert 16 <= embedded_before < 40
    last = replace(place, out=out, cache=out / "features.h5")
    assert run.extract(run.Config(last)) == 0
    assert workspace.read_record(out)["features"]["embedded"] == 40 - embedded_before
    sha256, features = rows_of(last.cache)
    assert sha256 == expected[0]
    np.testing.assert_allclose(features, expected[1], atol=1e-5)
    left = sorted(p.name for p in out.iterdir())
    assert left == ["conflicts.csv", "features.h5", "last_run.json", "manifest.csv", "quarantine.csv", "splits.csv"]


def test_a_kill_after_the_seal_loses_and_doubles_nothing(place, tmp_path):
    """Between the new features.h5 and the end: the cache counts, and the next run ends with each row once."""
    out = tmp_path / "killed"
    prelude = """
import os, signal
from extract.store import cache
seal = cache.seal
cache.seal = lambda *given: (seal(*given), os.kill(os.getpid(), signal.SIGKILL))
"""
    process = start(place, out, prelude, delay=0)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert len(list((out / "features.parts").glob("part-*"))) == 5
    last = replace(place, out=out, cache=out / "features.h5")
    assert run.extract(run.Config(last)) == 0
    assert workspace.read_record(out)["features"]["embedded"] == 0
    assert len(cache.verify(last.cache)) == 40
    assert not (out / "features.parts").exists()
    assert not [p.name for p in out.iterdir() if p.name.startswith(".")]


def test_ctrl_c_stops_within_a_batch_keeps_what_is_done_and_says_how_to_go_on(place, tmp_path):
    """Exit code 1, one paragraph, no traceback."""
    out = tmp_path / "stopped"
    process = start(place, out)
    wait_for_parts(out, 1)
    process.send_signal(signal.SIGINT)
    asked = time.monotonic()
    _, stderr = process.communicate()
    assert time.monotonic() - asked < 5
    assert process.returncode == 1
    assert "Run the same command again to go on from there" in stderr
    assert "Traceback" not in stderr
    kept = sum(len(part) for part in cache.open_parts(out / "features.parts"))
    assert f"Stopped with {kept} of 40 images done" in stderr
    assert workspace.read_record(out)["features"]["status"] == "stopped"


def test_a_second_run_on_the_same_cache_is_refused_while_the_first_lives(place, tmp_path):
    """And the first goes on undisturbed."""
    out = tmp_path / "shared"
    first = start(place, out)
    wait_for_parts(out, 1)
    second = start(place, out)
    _, stderr = second.communicate()
    assert second.returncode == 1
    assert f"Process {first.pid} is already writing" in stderr
    wait_for_parts(out, len(list((out / "features.parts").glob("part-*"))) + 1)
    first.kill()
    first.communicate()


def test_a_kill_during_the_seal_loses_nothing_and_leaves_nothing_on_the_disk_behind_links(place, tmp_path):
    """OUT and its cache are links; killed while features.h5 is written: the parts count."""
    disk, out = tmp_path / "disk", tmp_path / "out link"
    (disk / "out").mkdir(parents=True)
    out.symlink_to(disk / "out")
    (out / "features.h5").symlink_to(disk / "features.h5")
    prelude = """
import os, signal
from extract.store import cache
stamp = cache._stamp
cache._stamp = lambda path: stamp(path) if 'part-' in path.name else os.kill(os.getpid(), signal.SIGKILL)
"""
    process = start(place, out, prelude, delay=0)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [path.name for path in disk.iterdir() if path.name.startswith(".onepass-tmp-")]
    assert len(list((out / "features.parts").glob("part-*"))) == 5
    last = replace(place, out=out, cache=out / "features.h5")
    assert run.extract(run.Config(last)) == 0
    assert workspace.read_record(out)["features"]["embedded"] == 0
    assert len(cache.verify(disk / "features.h5")) == 40
    assert sorted(path.name for path in disk.iterdir()) == ["features.h5", "out"]
    assert not (out / "features.parts").exists()
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
    assert out.is_symlink()
    assert (out / "features.h5").is_symlink()
