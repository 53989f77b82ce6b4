"""Planted copies and near-duplicates: which of them the search across splits finds, and what else it reports.

`python -m benchmarks.leaks --out OUT [--photos 200]` alters photos of a workspace in each way of WAYS, embeds them with
the recorded backbone, puts them into another split than their photo's and prints a row a way, then every pair that was
not planted. Each photo is planted in one way at a time, so that a cluster of versions does not help itself.
Without OUT, made-up clustered features (`--rows`): the approximate search against the exact one, time and memory.
"""

from __future__ import annotations

import argparse
import io
import resource
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from extract import workspace
from extract.backbones import backbone
from extract.files.manifest import Manifest
from extract.images import decode
from extract.store import cache
from heads.data import dataset, neighbours

DIM = 1280
SHARES = (0.8, 0.1, 0.1)


def _scaled(image: Image.Image, share: float) -> Image.Image:
    size = (max(1, round(share * image.width)), max(1, round(share * image.height)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, share: float) -> Image.Image:
    """Cut `share` of width and height off, two thirds of it on the left and at the top."""
    x, y = round(share * image.width), round(share * image.height)
    left, top = round(2 * x / 3), round(2 * y / 3)
    return image.crop((left, top, left + image.width - x, top + image.height - y))


def _marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    at, height = (0.6 * image.width, 0.92 * image.height), max(10, image.height // 24)
    ImageDraw.Draw(image).text(at, "(c) example.com", fill=(255, 255, 255), font_size=height)
    return image


def _same(image: Image.Image) -> Image.Image:
    return image


WAYS: dict[str, tuple[Callable[[Image.Image], Image.Image], int]] = {  # how it is altered, JPEG quality
    "JPEG, quality 70": (_same, 70),
    "JPEG, quality 40": (_same, 40),
    "resized to 80 %": (lambda image: _scaled(image, 0.8), 90),
    "resized to 50 %": (lambda image: _scaled(image, 0.5), 90),
    "cropped by 3 %": (lambda image: _cropped(image, 0.03), 90),
    "cropped by 5 %": (lambda image: _cropped(image, 0.05), 90),
    "brightness + 10 %": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), 90),
    "brightness - 10 %": (lambda image: ImageEnhance.Brightness(image).enhance(0.9), 90),
    "contrast + 10 %": (lambda image: ImageEnhance.Contrast(image).enhance(1.1), 90),
    "contrast - 10 %": (lambda image: ImageEnhance.Contrast(image).enhance(0.9), 90),
    "mirrored": (ImageOps.mirror, 90),
    "watermark": (_marked, 90),
    "cropped by 3 %, resized to 60 %, quality 50": (lambda image: _scaled(_cropped(image, 0.03), 0.6), 50),
}


def _versions(path: str, size: int) -> np.ndarray:
    """Return the pixels of every version of a photo, uint8 (len(WAYS), S, S, 3)."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    pixels = []
    for alter, quality in WAYS.values():
        file = io.BytesIO()
        alter(image).save(file, "JPEG", quality=quality)
        pixels.append(decode.from_bytes(file.getvalue(), size))
    return np.stack(pixels)


def photos(out: str, n: int) -> None:
    """Print what is found of the planted versions of n photos, by way, and the pairs that were not planted."""
    place = workspace.resolve(out=out)
    found, said = cache.open_cache(place.cache), dataset.read_labels(place).labels
    at = dataset.rows_of(found, said.sha256)
    X, names, group = found.read(at[at >= 0]), said.ids[at >= 0], said.component[at >= 0]
    path_of = Manifest.read(place.manifest).paths
    rng = np.random.default_rng(0)
    picked = np.sort(rng.permutation(len(X))[:n])
    network = backbone.load(backbone.resolve(place.backbone, place.input_size))
    with ThreadPoolExecutor() as pool:
        pixels = pool.map(lambda row: _versions(path_of[names[row]], network.input_size), picked.tolist())
        altered = np.stack([network.embed(each) for each in pixels])  # (n, ways, D)
    altered = np.concatenate([altered, X[picked][:, None]], axis=1)
    ways = [*WAYS, "copy"]
    seen = np.zeros((len(picked), len(ways)), bool)
    photo = np.concatenate([np.arange(len(X)), picked])
    other: dict[tuple[int, int], float] = {}
    counts = []
    for turn in range(len(ways)):
        way = (np.arange(len(picked)) + turn) % len(ways)
        features = np.concatenate([X, altered[np.arange(len(picked)), way]])
        split = rng.choice(3, len(features), p=SHARES)
        split[len(X) :] = (split[picked] + rng.integers(1, 3, len(picked))) % 3  # not where its photo is
        order = np.argsort(split, kind="stable")
        later, earlier, cosine = neighbours.across([features[order[split[order] == s]] for s in range(3)])
        later, earlier = order[later], order[earlier]
        planted = photo[later] == photo[earlier]
        version = np.maximum(later, earlier)[planted] - len(X)
        seen[version, way[version]] = True
        real = ~planted & (np.maximum(later, earlier) < len(X))
        for a, b, c in zip(later[real].tolist(), earlier[real].tolist(), cosine[real].tolist(), strict=True):
            other[min(a, b), max(a, b)] = c
        counts.append((len(version), real.sum(), (group[later[real]] != group[earlier[real]]).sum()))
    print(f"{out}: {len(X):,} photos, {network.input_size} px, {X.shape[1]} features")
    for at_way, name in enumerate(ways):
        print(f"  {name:<45}{seen[:, at_way].sum():>5} of {len(picked):,} found")
    mean = np.mean(counts, axis=0)
    print(
        f"  a split of the rows into 80/10/10 reports {mean[0]:.1f} planted pairs and {mean[1]:.1f} others "
        f"({1000 * mean[1] / len(X):.2f} per 1,000 photos), {mean[2]:.1f} of them of two groups; "
        f"all others of {len(ways)} such splits:"
    )
    for (a, b), c in sorted(other.items(), key=lambda item: -item[1]):
        print(f"    {c:.3f}  {names[a]}  {names[b]}{'  one group' if group[a] == group[b] else ''}")


def clustered(n: int, seed: int = 0) -> list[np.ndarray]:
    """Return features of train, validation and test, n rows in 500 clusters; 1,000 are noisy versions of train's."""
    rng = np.random.default_rng(seed)
    mix = (rng.normal(size=(64, DIM)) * np.exp(-np.arange(64) / 16)[:, None]).astype(np.float32)
    centres = np.maximum(rng.normal(size=(500, 64)), 0)
    X = np.empty((n, DIM), np.float32)
    for start in range(
        0, n, neighbours.BLOCK
    ):  # by blocks: the peak memory of what is measured must not hide behind this
        block = X[start : start + neighbours.BLOCK]
        hidden = centres[rng.integers(0, 500, len(block))] + 0.5 * rng.normal(size=(len(block), 64))
        block[:] = hidden.astype(np.float32) @ mix + 0.7 * rng.standard_normal(block.shape, dtype=np.float32)
        np.maximum(block, 0, out=block)
    ends = np.cumsum((np.array(SHARES) * n).astype(int))[:2]
    versions = ends[0] + rng.permutation(n - ends[0])[:1000]
    noise = np.linspace(0.1, 0.8, 1000, dtype=np.float32)[: len(versions), None] * X[:1000].std()
    X[versions] = X[rng.integers(0, ends[0], len(versions))]
    X[versions] += noise * rng.standard_normal((len(versions), DIM), dtype=np.float32)
    return np.split(X, ends)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def synthetic(n: int) -> None:
    """Print time, pairs and memory of both searches, the approximate one first: its peak must be its own."""
    parts = clustered(n)
    matrix, before = n * DIM * 4 / 1e9, _peak()
    pairs = {}
    for name, limit in (("approximate", 0), ("exact", n)):
        started = time.monotonic()
        neighbours.EXACT_ROWS = limit
        later, earlier, _ = neighbours.across(parts)
        pairs[name] = set(zip(later.tolist(), earlier.tolist(), strict=True))
        print(
            f"{n:>8,} rows  {name:<12}{time.monotonic() - started:6.1f} s  {len(pairs[name]):,} pairs  "
            f"peak {1 + (_peak() - before) / matrix:.1f} x the matrix of {matrix:.2f} GB",
            flush=True,
        )
    both = len(pairs["exact"] & pairs["approximate"])
    print(
        f"{n:>8,} rows  approximate has {both / len(pairs['exact']):.2%} of the exact search's pairs, and "
        f"{len(pairs['approximate'] - pairs['exact']):,} others",
        flush=True,
    )


def main() -> None:
    """Print the one or the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", help="a workspace whose photos are there")
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000, 80_000])
    flags = parser.parse_args()
    if flags.out:
        photos(str(Path(flags.out)), flags.photos)
        return
    for rows in flags.rows:
        synthetic(rows)


if __name__ == "__main__":
    main()
