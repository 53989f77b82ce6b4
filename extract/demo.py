"""The demo: scikit-learn's handwritten digits as image files, odd against even. No network.

Some labels are flipped on purpose, so that one can see whether the audit finds them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from PIL import Image

from extract.backbones import backbone
from extract.backbones.backbone import REMOVED
from extract.backbones.lite import LITE0
from extract.ground import files
from extract.ground.errors import CacheError, InputError
from extract.store import cache
from extract.workspace import RECORD, Workspace, read_record, shown, write_record

BACKBONE = LITE0
INPUT_SIZE = 96  # of 64, 96 and 128 it tells the digits best
SEED = 7
SIDE = INPUT_SIZE  # pixels; the digits are 8 x 8 and are enlarged, so that nothing resizes them again
FLIPPED = 0.02
FLIP_COLUMNS = ("objectId", "true", "written")


def make(out: Path, spec: str = BACKBONE, input_size: int | None = INPUT_SIZE, precision: str = "float32") -> Workspace:
    """Write the demo's data under `out`, unless they are there, and return its workspace.

    spec, input_size, precision: the backbone, S where it is not its own, and what it computes in.
    Errors: InputError where `out` holds something else than a demo; CacheError where a demo of another backbone.
    """
    data = out / "data"
    _set_aside(out)
    place = Workspace(
        out, out / "features.h5", data / "split_label.csv", data, spec, input_size=input_size, precision=precision
    )
    there = place.data.exists() and (data / "flips.csv").exists()
    if not there and any(path.exists() for path in (data, place.cache, out / RECORD)):
        raise InputError(
            f"{shown(out)} holds something else than the demo, or half of one",
            rule="The demo has a folder of its own",
            then="Give another --out, or delete that folder if it is a demo's",
        )
    recipe = backbone.recipe(backbone.resolve(spec, input_size), precision) if place.cache.exists() else None
    if recipe and cache.open_cache(place.cache).recipe != recipe:
        raise CacheError(
            f"The demo in {shown(out)} was made with another backbone or version",
            then="Delete that folder and try again",
        )
    if not there:
        with files.replacing_folder(data) as partial:
            _write_data(partial)
    write_record(place)
    return place


def _set_aside(out: Path) -> None:
    """Move a demo of version 0.7 away, whose backbone is no more: what a person answered in its review stays."""
    aside = out.with_name(f"{out.name}-0.7")
    ours = (out / "data" / "flips.csv").exists()
    if not ours or read_record(out).get("inputs", {}).get("backbone") != REMOVED:
        return
    if aside.exists():
        raise CacheError(
            f"{shown(out)} was made with the {REMOVED} backbone, which was removed in version 0.8",
            then=f"Delete it and run make demo again; {shown(aside)} holds an earlier one",
        )
    os.rename(out, aside)
    print(f"demo      moved {shown(out)} to {shown(aside)}: its {REMOVED} backbone was removed in version 0.8")


def planted(out: Path) -> set[str]:
    """Return the objectIds whose labels the demo under `out` flipped; of a folder that is no demo, none."""
    return {row["objectId"] for row in files.read_csv(out / "data" / "flips.csv", FLIP_COLUMNS)}


def enlarged(digit: np.ndarray) -> Image.Image:
    """Return one digit, (8, 8) of 0 to 16, as a grey picture of SIDE x SIDE pixels."""
    grey = Image.fromarray((digit * 255 / 16).astype(np.uint8))
    return grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _write_data(folder: Path) -> None:
    """Write split_label.csv, flips.csv and object/ab/cd/<id>.png: 2:1 odd to even, two bad files, one missing."""
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
        enlarged(digits.images[index]).save(path)
        rows.append((name, ("even", "odd")[digit % 2], rng.choice(["train", "validation", "test"], p=[0.8, 0.1, 0.1])))
    flipped = set(rng.choice(len(rows), round(FLIPPED * len(rows)), replace=False).tolist())
    for at in sorted(flipped):
        name, value, split = rows[at]
        rows[at] = (name, "even" if value == "odd" else "odd", split)
        flips.append((name, value, rows[at][1]))
    files.write_csv(folder / "split_label.csv", ("objectId", "value", "type"), rows)
    files.write_csv(folder / "flips.csv", FLIP_COLUMNS, flips)
    truncated, html, missing = (
        folder / "object" / name[:2] / name[2:4] / f"{name}.png" for name in (rows[at][0] for at in (100, 200, 300))
    )
    truncated.write_bytes(truncated.read_bytes()[:200])
    html.write_text("<html><body>404 Not Found</body></html>\n", encoding="utf-8")
    missing.unlink()
    print(
        f"demo      {len(rows):,} handwritten digits, odd against even; planted: {len(flips)} flipped labels "
        "(data/flips.csv), 2 corrupt files, 1 missing file"
    )
