"""The demo's images and labels: scikit-learn's handwritten digits as image files, odd against even. No network.

The backbone is, for now, an untrained EfficientNet-B0: seeded weights, its batch normalisation calibrated on the demo's
images. It shows that the machinery runs, and says so; it does not show what a trained backbone can do.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from extract import artifacts, engines, images
from extract.workspace import Workspace, write_record

SEED = 7
SIDE = 64  # pixels; the digits are 8 x 8 and are enlarged
INPUT_SIZE = 64
FLIPPED = 0.02
UNTRAINED = (
    "demo      The demo's backbone is UNTRAINED (seeded weights): its figures show that the line works, "
    "not what it can do on your photos."
)


def make(out: Path) -> Workspace:
    """Write the demo's data and backbone under `out`, unless they are there, and return its workspace."""
    data, network = out / "data", out / "backbone.keras"
    if not data.exists():
        with artifacts.replacing_folder(data) as partial:
            _write_data(partial)
    if not network.exists():
        _write_backbone(data, network)
    print(UNTRAINED, flush=True)
    place = Workspace(out, out / "features.h5", data / "split_label.csv", data, str(network))
    write_record(place)
    return place


def _write_data(folder: Path) -> None:
    """Write split_label.csv, flips.csv and object/ab/cd/<id>.png: 2:1 odd to even, two bad files, one missing."""
    from PIL import Image
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(SEED)
    digits = load_digits()
    odd = digits.target % 2 == 1
    even = rng.permutation(np.flatnonzero(~odd))[: odd.sum() // 2]
    rows, flips = [], []
    for index in np.sort(np.concatenate([np.flatnonzero(odd), even])).tolist():
        digit = int(digits.target[index])
        name = f"{hashlib.sha256(str(index).encode()).hexdigest()[:4]}-digit{digit}-{index:04d}"
        path = folder / "object" / name[:2] / name[2:4] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((digits.images[index] * 255 / 16).astype(np.uint8))
        grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
        rows.append((name, ("even", "odd")[digit % 2], rng.choice(["train", "validation", "test"], p=[0.8, 0.1, 0.1])))
    flipped = set(rng.choice(len(rows), round(FLIPPED * len(rows)), replace=False).tolist())
    for at in sorted(flipped):
        name, value, split = rows[at]
        rows[at] = (name, "even" if value == "odd" else "odd", split)
        flips.append((name, value, rows[at][1]))
    artifacts.write_csv(folder / "split_label.csv", ("objectId", "value", "type"), rows)
    artifacts.write_csv(folder / "flips.csv", ("objectId", "true", "written"), flips)
    truncated, html, missing = (
        folder / "object" / name[:2] / name[2:4] / f"{name}.png" for name in (rows[at][0] for at in (100, 200, 300))
    )
    truncated.write_bytes(truncated.read_bytes()[:200])
    html.write_text("<html><body>404 Not Found</body></html>\n")
    missing.unlink()
    print(
        f"demo      {len(rows):,} handwritten digits, odd against even; planted: {len(flips)} flipped labels "
        "(data/flips.csv), 2 corrupt files, 1 missing file"
    )


def _write_backbone(data: Path, path: Path) -> None:
    """Save a seeded B0, (INPUT_SIZE, INPUT_SIZE, 3) -> (1280,), with batch statistics taken from 256 of the images."""
    _, keras = engines.load()
    keras.utils.set_random_seed(SEED)
    model = keras.applications.EfficientNetB0(
        include_top=False, weights=None, pooling="avg", input_shape=(INPUT_SIZE, INPUT_SIZE, 3)
    )
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in layers:
        layer.momentum = 0.0  # one pass in training mode leaves exactly this batch's statistics behind
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0
    pixels = []
    for file in sorted((data / "object").rglob("*.png")):
        try:
            pixels.append(images.load(file, INPUT_SIZE))
        except images.BadImage:  # the demo's own corrupt files
            continue
        if len(pixels) == 256:
            break
    model(np.stack(pixels).astype(np.float32), training=True)
    for layer in layers:
        layer.momentum = 0.99
    with artifacts.replacing(path) as partial:
        model.save(partial)
