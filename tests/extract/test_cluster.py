"""A cluster's slices sealed are one run; a worker that is killed half-way loses nothing."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from extract import run, shards
from extract.__main__ import main
from extract.store import cache
from tests.support.album import ROOT
from tests.support.refusal import refusal

pytestmark = pytest.mark.tensorflow


def holder(lock):
    """The process that holds a shard's lock, or None."""
    try:
        return int(lock.read_text())
    except (OSError, ValueError):
        return None


@pytest.mark.usefixtures("extracted")
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
    if not killed:
        process.kill()
    else:
        os.kill(killed, signal.SIGKILL)
    said, _ = process.communicate(timeout=150)
    assert killed not in (None, process.pid), said
    assert process.returncode == 0, said
    assert "2 workers, 8 slices" in said
    assert_as_one_run(place, tmp_path / "many")


def assert_as_one_run(place, many):
    found = cache.verify(place.cache), cache.verify(many / "features.h5")
    assert sorted(found[0].sha256.tolist()) == sorted(found[1].sha256.tolist())
    rows = [each.read(np.argsort(each.sha256)) for each in found]
    np.testing.assert_allclose(*rows, atol=1e-5)
    assert not (many / "features.shards").exists()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def descendants(pid):
    """A process and all that it started, by /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


@pytest.fixture
def head(tmp_path):
    """The address of a cluster that somebody else started, from another folder, without Ray's token."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={free_port()}"]
    command += [
        f"--ray-client-server-port={port}",
        "--num-cpus=3",
        "--include-dashboard=false",
        "--disable-usage-stats",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"RAY_AUTH_MODE": "disabled"}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 90
        while True:
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        yield f"ray://127.0.0.1:{port}"
    finally:
        for pid in descendants(process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait(timeout=30)


@pytest.mark.slow
@pytest.mark.usefixtures("extracted")
def test_a_cluster_that_runs_already_is_reached_by_its_address(place, tmp_path, head):
    """Through Ray Client, as from a laptop: the same rows as one run."""
    command = [sys.executable, "-m", "extract", "features", "--data", str(place.data), "--media", str(place.media)]
    command += ["--backbone", place.backbone, "--out", str(tmp_path / "many"), "--cluster", head, "--workers", "2"]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 workers, 8 slices" in done.stdout
    assert_as_one_run(place, tmp_path / "many")


def test_a_cluster_that_is_not_there_is_one_clear_error(place):
    """As a command that was wrong: the address is in it."""
    with refusal("cluster-unreachable", "ray://127.0.0.1:"):
        shards.extract_all(run.Config(place), f"ray://127.0.0.1:{free_port()}", None)


def test_without_ray_there_is_one_clear_error(place, monkeypatch, capsys):
    """With the line that installs it."""
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ["features", "--data", str(place.data), "--media", str(place.media), "--backbone", place.backbone]
    assert main([*command, "--out", str(place.out), "--cluster", "local"]) == 2
    assert "pip install -r requirements-cluster.txt" in capsys.readouterr().err
