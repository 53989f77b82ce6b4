"""The pass over the images against what a user would run instead: `python -m benchmarks.embedding`.

The same photos, the same network, in turn: Keras' model.predict on a tf.data pipeline (decode, antialiased resize,
batch 32, prefetch), and `make features`' own loop. Photos are made up: 500 x 375 pixels, JPEG.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from extract import backbone, engines, run


def photos(folder: Path, n: int) -> dict[str, list[str]]:
    """Write n JPEG files of smooth fields with some noise; return digest -> paths, as a plan has it."""
    rng, plan = np.random.default_rng(0), {}
    for i in range(n):
        small = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        pixels = np.asarray(small.resize((500, 375), Image.Resampling.BICUBIC)) + rng.normal(0, 6, (375, 500, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
        path = folder / f"{i:05d}.jpg"
        path.write_bytes(file.getvalue())
        plan[backbone.file_digest(path)] = [str(path)]
    return plan


def ours(plan: dict[str, list[str]], network: backbone.Backbone) -> np.ndarray:
    """The loop of `make features`, without its parts and its seal."""
    workers = engines.workers("tensorflow")
    with ThreadPoolExecutor(workers) as pool:
        return np.concatenate([block.features for block in run._blocks(network, plan, 2 * workers, pool)])


def predict(plan: dict[str, list[str]], network: backbone.Backbone) -> np.ndarray:
    """Keras' predict over tf.data, as its guides show it."""
    tf, _ = engines.load()
    size = (network.input_size, network.input_size)

    def decode(path: object) -> object:
        image = tf.io.decode_jpeg(tf.io.read_file(path), channels=3, dct_method="INTEGER_ACCURATE")
        return tf.image.resize(image, size, antialias=True)

    data = tf.data.Dataset.from_tensor_slices([paths[0] for paths in plan.values()]).map(
        decode, num_parallel_calls=tf.data.AUTOTUNE
    )
    return network.model.predict(data.batch(32).prefetch(tf.data.AUTOTUNE), verbose=0)


def main() -> None:
    """Print images/s of both and the ratio of each pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", help="default: an untrained EfficientNet-B0, whose speed is the same")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=6)
    flags = parser.parse_args()
    _, keras = engines.load()
    with tempfile.TemporaryDirectory() as folder:
        if not flags.backbone:
            flags.backbone = f"{folder}/b0.keras"
            keras.applications.EfficientNetB0(
                include_top=False, weights=None, pooling="avg", input_shape=(224, 224, 3)
            ).save(flags.backbone)
        network = backbone.load(backbone.resolve(flags.backbone))
        plan = photos(Path(folder), flags.images)
        few = dict(list(plan.items())[:64])
        ours(few, network), predict(few, network)  # warm-up
        ratios = []
        for _ in range(flags.pairs):
            marks = [time.monotonic()]
            for side in (predict, ours):
                side(plan, network)
                marks.append(time.monotonic())
            rates = [flags.images / (b - a) for a, b in pairwise(marks)]
            ratios.append(rates[1] / rates[0])
            print(
                f"model.predict over tf.data {rates[0]:6.1f} images/s   make features {rates[1]:6.1f} images/s   "
                f"ratio {ratios[-1]:.2f}",
                flush=True,
            )
        print(f"median ratio {np.median(ratios):.2f} on {engines.device()}")


if __name__ == "__main__":
    main()
