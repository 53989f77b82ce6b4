"""The shards of one table on a Ray cluster: the only file that knows Ray.

One worker a machine, which loads the backbone once and takes slice after slice; each uses all the cores that it sees.
A slice that is given out again, because its worker died, goes on in its folder where it stopped.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from extract import run, shards
from extract.backbones import backbone
from extract.files import manifest
from extract.ground.errors import OnepassError, UsageError

ROOT = Path(__file__).parent.parent
SLICES = 4  # a worker, at least: what the slowest still has to do when the others are done
LARGEST = 20_000  # rows of a slice


class Worker:
    """A stateful actor of Ray Data. n: how many slices there are."""

    def __init__(self, config: run.Config, n: int) -> None:
        self._config, self._n = replace(config, load=lru_cache(maxsize=1)(backbone.load)), n

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Extract slices by number, from 0; return the numbers, and why one could not be done, "" where it was."""
        return {"id": batch["id"], "error": np.array([self._extract(int(i) + 1) for i in batch["id"]], dtype=object)}

    def _extract(self, i: int) -> str:
        try:
            shards.extract(self._config, (i, self._n))
        except OnepassError as error:  # the user's to mend: to try again would not help
            return str(error)
        return ""


def extract(config: run.Config, address: str, workers: int | None) -> int:
    """Extract every slice on a cluster and seal them; return the exit code.

    address: "local", or a cluster's, ray://host:port; its machines, and this one, must see this project and the same
    files under the same paths. workers: None for one a machine.
    Errors: UsageError without Ray or without that cluster; the first error of a slice.
    """
    ray = _start(address, workers)
    try:
        machines = [node for node in ray.nodes() if node["Alive"]]
        workers = workers or len(machines)
        rows = len(manifest.read_table(config.workspace.data))
        n = shards.count(config.workspace) or max(SLICES * workers, -(-rows // LARGEST))
        print(f"cluster   {len(machines):,} machines, {workers:,} workers, {n:,} slices", flush=True)
        gpus = 1 if any(node["Resources"].get("GPU") for node in machines) else 0
        # as a task, since Ray Data cannot be driven from outside a cluster
        errors = ray.get(ray.remote(num_cpus=0)(_slices).remote(config, n, workers, gpus))
    finally:
        ray.shutdown()
    if errors:
        raise OnepassError(
            "slice-failed", errors[0], rule=f"It stopped {len(errors):,} of {n:,} slices; what is done is kept"
        )
    return shards.seal(config)


def _slices(config: run.Config, n: int, workers: int, gpus: int) -> list[str]:
    """Run on the cluster: extract all slices by Ray Data's actors; return what went wrong."""
    import ray.data

    ray.data.DataContext.get_current().enable_progress_bars = False
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    found = ray.data.range(n, override_num_blocks=n).map_batches(
        Worker,
        fn_constructor_args=(config, n),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
    )
    return [row["error"] for row in found.take_all() if row["error"]]


def _start(address: str, workers: int | None) -> Any:
    """Connect to a cluster, or start one here, and return the module. Errors: UsageError."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}  # it would call out, and chatter
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(
            "ray-missing",
            f"A cluster needs Ray, and {error.name} is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-cluster.txt",
        ) from error
    here: dict[str, Any] = {
        "address": address,
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}},
    }
    if address == "local":  # a CPU more than workers: the reader needs one
        # "local": without an address Ray joins whatever cluster runs here, or ran here last
        here = {"address": "local", "num_cpus": (workers or 1) + 1, "include_dashboard": False}
    try:
        if match := re.fullmatch(r"ray://(.+):(\d+)", address):  # Ray itself would try for half a minute
            socket.create_connection((match[1], int(match[2])), timeout=10).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **here)
    except (OSError, ValueError, RuntimeError) as error:
        raise UsageError("cluster-unreachable", f"The cluster {address} cannot be reached: {error}") from error
    return ray
