"""A cluster's slices sealed are one run; a worker that is killed half-way loses nothing."""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import numpy as np
import pytest

from extract import cache, run
from extract.__main__ import main
from tests.conftest import ROOT

pytestmark = pytest.mark.tensorflow


def holder(lock):
    """The process that holds a shard's lock, or None."""
    try:
        return int(lock.read_text())
    except (OSError, ValueError):
        return None


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_killed_worker_of_a_local_cluster_loses_nothing(place, tmp_path):
    """Two workers, one of them killed by SIGKILL while it works on a slice: the same rows as one run."""
    command = [sys.executable, "-m", "extract", "features", "--data", str(place.data), "--media", str(place.media)]
    command += ["--backbone", place.backbone, "--out", str(tmp_path / "many"), "--cluster", "local", "--workers", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    killed, deadline = None, time.monotonic() + 120
    while not killed and process.poll() is None and time.monotonic() < deadline:
        for lock in tmp_path.glob("many/features.shards/*/.features.h5.lock"):
            killed = holder(lock)
        time.sleep(0.05)
    assert killed
    assert killed != process.pid
    os.kill(killed, signal.SIGKILL)
    said, _ = process.communicate(timeout=150)
    assert process.returncode == 0, said
    assert "2 workers, 8 slices" in said
    assert run.extract(run.Config(place)) == 0
    one, many = cache.verify(place.cache), cache.verify(tmp_path / "many" / "features.h5")
    assert sorted(one.sha256.tolist()) == sorted(many.sha256.tolist())
    rows = [found.read(np.argsort(found.sha256)) for found in (one, many)]
    np.testing.assert_allclose(*rows, atol=1e-5)
    assert not (tmp_path / "many" / "features.shards").exists()


def test_without_ray_there_is_one_clear_error(place, monkeypatch, capsys):
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["features", "--data", str(place.data), "--media", str(place.media), "--backbone", place.backbone]
    assert main([*command, "--out", str(place.out), "--cluster", "local"]) == 2
    assert "pip install -r requirements-cluster.txt" in capsys.readouterr().err
