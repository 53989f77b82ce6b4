"""Images, tables and small backbones that the tests make for themselves; nothing is downloaded."""

from __future__ import annotations

import gc
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from extract.workspace import Workspace
from tests.support import chromium, synthetic
from tests.support.album import Album, save_tiny_backbone, with_features
from tests.support.template import Exported, copied, once

LONG = 5.0  # seconds of processor time that a test takes for itself: listed from here on
TOOK = "processor seconds"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a browser on a machine without one; `.ci/run` installs one, so that there it always runs."""
    if not chromium.find():
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=f"no browser: none of {', '.join(chromium.NAMES)} is on PATH"))


def processor_seconds() -> float:
    """Return what this process and those that it waited for have computed: other load makes it hardly longer."""
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measure the test without its fixtures."""
    before = processor_seconds()
    try:
        return (yield)
    finally:
        item.user_properties.append((TOOK, processor_seconds() - before))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the tests that take longer than LONG."""
    passed = terminalreporter.stats.get("passed", [])
    found = sorted(((dict(each.user_properties).get(TOOK, 0.0), each.nodeid) for each in passed), reverse=True)
    if found and found[0][0] > LONG:
        terminalreporter.section(f"over {LONG:.0f} s of processor time, fixtures not counted", sep="-")
        for took, name in found:
            if took > LONG:
                terminalreporter.write_line(f"{took:6.1f} s  {name}")


def pytest_sessionfinish() -> None:
    """End what this process has started for all of its tests."""
    chromium.close()


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Let SIGINT interrupt, here and in processes started here, also where the tests run behind `nohup` or `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def album(tmp_path: Path) -> Album:
    return Album(tmp_path / "album")


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests' tiny backbone, see `save_tiny_backbone`."""
    from extract.ground import tensorflow

    def make(folder: Path) -> Path:
        save_tiny_backbone(folder / "tiny.keras")
        return folder / "tiny.keras"

    tensorflow.load()
    gc.freeze()  # Keras collects garbage for each network: TensorFlow's own million objects are none
    return once(tmp_path_factory, "backbone", make)


@pytest.fixture
def place(album: Album, tiny_backbone: Path, tmp_path: Path) -> Workspace:
    """A workspace of 40 pictures and the tiny backbone; nothing is extracted yet."""
    album.fill(40)
    out = tmp_path / "out"
    return Workspace(out, out / "features.h5", album.table, album.media, str(tiny_backbone))


@pytest.fixture(scope="session")
def once_extracted(tiny_backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """What `extracted` copies; not to be changed."""
    from extract import run

    def make(folder: Path) -> Workspace:
        photos, out = Album(folder / "album").fill(40), folder / "out"
        place = Workspace(out, out / "features.h5", photos.table, photos.media, str(tiny_backbone))
        assert run.extract(run.Config(place)) == 0
        return place

    return once(tmp_path_factory, "extracted", make)


@pytest.fixture(scope="session")
def once_exported(once_extracted: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A workspace with a logistic head whose threshold is not one half, exported in every format; not to be changed."""
    from heads import train
    from heads.data import dataset
    from heads.ship import export, formats
    from heads.stats import decision

    def make(folder: Path) -> Exported:
        out = Path(shutil.copytree(once_extracted.out, folder / "out"))
        place = replace(once_extracted, out=out, cache=out / "features.h5")
        train.run(place, dataset.join(place), train.Config(["logistic"], 0, decision.parse("review=20/40")))
        return Exported(place, export.export(place, "logistic", n_images=0, seed=0, asked=list(formats.FILES)))

    return once(tmp_path_factory, "exported", make)


@pytest.fixture
def extracted(place: Workspace, once_extracted: Workspace) -> Workspace:
    """`place` after `make features`: no second run of the backbone for each test."""
    return copied(once_extracted, place)


@pytest.fixture
def cached(tmp_path: Path) -> Workspace:
    """A workspace of 400 made-up rows of 16 features, already in a cache; needs no TensorFlow."""
    return synthetic.workspace(tmp_path / "cached", 400, 16)


@pytest.fixture
def photos(album: Album, tmp_path: Path) -> Workspace:
    """A workspace of 60 pictures, labels 0 and 1 in turn, whose made-up features tell them apart; no TensorFlow."""
    album.fill(60)
    return with_features(album, tmp_path / "out")


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """The environment of a fresh process that has none of our code on its path."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MEDIA_DIR")} | {"TF_CPP_MIN_LOG_LEVEL": "3"}
