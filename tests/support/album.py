"""Small photos, tables and caches that the tests make for themselves; nothing is downloaded."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
from PIL import Image

from extract.files import manifest
from extract.ground import files
from extract.store import cache
from extract.workspace import Workspace, write_record
from tests.support import synthetic

ROOT = Path(__file__).parents[2]


def picture(seed: int, side: int = 48) -> Image.Image:
    """A smooth coloured field with a disc, different for each seed: compresses like a photo, unlike noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    waves = [np.sin(rng.uniform(1, 9) * x + rng.uniform(1, 9) * y + rng.uniform(0, 6)) for _ in range(3)]
    pixels = 127 + 100 * np.stack(waves, axis=-1)
    pixels[(x - rng.random()) ** 2 + (y - rng.random()) ** 2 < 0.05] = rng.integers(0, 255, 3)
    return Image.fromarray(pixels.astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Return an image's file bytes."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read any CSV table, by the standard library alone."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


class Album:
    """A table and its media: `add` images, then `write` the table."""

    def __init__(self, folder: Path) -> None:
        self.media, self.table = folder / "media", folder / "split_label.csv"
        self.rows: list[tuple[str, ...]] = []
        self.media.mkdir(parents=True)

    def add(self, name: str, data: bytes | None, value: str = "0", split: str = "", group: str = "", suffix: str = ""):
        """Add one row; `data` None leaves the file out. Returns the file's path."""
        path = self.media / "object" / name[:2] / name[2:4] / (name + suffix)
        if data is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.rows.append((name, value, split, group))
        return path

    def fill(self, n: int, *, seed: int = 0) -> Album:
        """Add n pictures, JPEG and PNG in turn, labels 0 and 1 in turn, a proper split."""
        for i in range(n):
            kind = ("JPEG", "PNG")[i % 2]
            split = ("validation", "test", "train", "train", "train")[i // 2 % 5]
            self.add(f"{i:04d}img", encoded(picture(seed + i), kind), str(i % 2), split)
        self.write()
        return self

    def write(self) -> None:
        files.write_csv(self.table, ("objectId", "value", "type", "group"), self.rows)


def save_tiny_backbone(path: Path) -> None:
    """Save a .keras feature extractor, (32, 32, 3) -> (12,), with the layers that are known to cause trouble."""
    from extract.ground import tensorflow

    _, keras = tensorflow.load()
    keras.utils.set_random_seed(3)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1 / 255.0)(inputs)
    x = keras.layers.Normalization(mean=[0.4, 0.5, 0.6], variance=[0.04, 0.05, 0.06])(x)
    x = keras.layers.Conv2D(12, 5, strides=3, use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("silu")(x)
    keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x)).save(path)


def with_features(album: Album, out: Path) -> Workspace:
    """Write manifest and features of an album without a backbone: a feature for each label, the rest noise."""
    table = manifest.read_table(album.table)
    scan = manifest.build(table, album.media, manifest.Manifest.read(out / "none"))
    scan.write(out / "manifest.csv")
    digests, first = np.unique([row.sha256 for row in scan.objects], return_index=True)
    X = np.random.default_rng(0).normal(size=(len(digests), 16)).astype(np.float32)
    words = [set(value.split("|")) for value in table["value"].to_numpy(str)[first].tolist()]
    for column, name in enumerate(sorted(set().union(*words) - {"", "0", "none"})[:16]):
        X[:, column] += 4 * np.array([name in each for each in words])
    probe, made = np.zeros((4, 16), np.float32), cache.provenance(backbone="none")
    cache.write(out / "features.h5", synthetic.RECIPE, made, probe, [(digests.astype("S64"), X)], len(digests))
    place = Workspace(out, out / "features.h5", album.table, album.media, "none")
    write_record(place, features={"status": "done"})
    return place
