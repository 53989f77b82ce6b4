"""The demo: scikit-learn's handwritten digits as image files, odd against even. It needs no network.

Some labels are flipped on purpose, to see whether the audit finds them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from extract import workspace
from extract.backbones import backbone
from extract.backbones.backbone import REMOVED
from extract.ground import files
from extract.ground.errors import CacheError, InputError
from extract.store import cache
from extract.workspace import Workspace, read_record, shown

SEED = 7
SIDE = workspace.DEMO_INPUT_SIZE  # pixels, from 8 x 8: enlarged here, so that nothing resizes them again
FLIPPED = 0.02
FLIP_COLUMNS = ("objectId", "true", "written")


def ensure(place: Workspace) -> Workspace:
    """Write the demo's data if `place` is the demo's, see `make`; return `place`."""
    ours = workspace.demo()
    same = (place.out, place.cache, place.data, place.media) == (ours.out, ours.cache, ours.data, ours.media)
    if same and place.backbone != REMOVED:  # a folder of version 0.7 that OUT names is refused, with what to do
        make(place)
    return place


def first(place: Workspace, path: Path, make_it: Callable[[], object]) -> None:
    """In the demo's folder, make what is missing at `path`: every verb works with nothing given."""
    if place.out == workspace.demo().out and not path.exists():
        make_it()


def make(place: Workspace) -> None:
    """Write the demo's data into `place`, unless they are there.

    Errors: InputError where its OUT holds something else; CacheError where it holds a demo of another backbone.
    """
    out, data = place.out, place.media
    _set_aside(out)
    there = place.data.exists() and (data / "flips.csv").exists()
    if not there and any(path.exists() for path in (data, place.cache, place.record)):
        raise InputError(
            "demo-folder-in-use",
            f"{shown(out)} holds something other than the demo, or only half of one",
            then="Give another --out, or delete that folder if it is a demo's",
        )
    if there and _digits(out) != (place.task == "multiclass"):
        raise InputError(
            "demo-folder-in-use",
            f"{shown(out)} holds the demo of {'ten classes, the digits' if _digits(out) else 'odd against even'}",
            then="Give another --out, or delete that folder",
        )
    if place.cache.exists():
        source = backbone.resolve(place.backbone, place.input_size)
        if cache.open_cache(place.cache).recipe != backbone.recipe(source, place.precision):
            what = f"The demo in {shown(out)} was made with another backbone or version"
            raise CacheError("demo-other-backbone", what, then="Delete that folder and try again")
    if not there:
        with files.replacing_folder(data) as partial:
            _write_data(partial, place.task)
    positive = read_record(out)["inputs"].get("positive")
    workspace.write_record(replace(place, positive=positive))  # another is recorded once it is valid


def _set_aside(out: Path) -> None:
    """Move a demo of version 0.7 away, whose backbone was removed: answers given in its review are kept."""
    aside = out.with_name(f"{out.name}-0.7")
    ours = (out / "data" / "flips.csv").exists()
    if not ours or read_record(out)["inputs"].get("backbone") != REMOVED:
        return
    if aside.exists():
        raise CacheError(
            "demo-removed-backbone",
            f"{shown(out)} was made with the {REMOVED} backbone, which was removed in version 0.8",
            then=f"Delete it and run make demo again; {shown(aside)} holds an earlier one",
        )
    os.rename(out, aside)
    print(f"demo      moved {shown(out)} to {shown(aside)}: its {REMOVED} backbone was removed in version 0.8")


def planted(out: Path) -> set[str]:
    """Return the objectIds whose labels the demo under `out` flipped; none for a folder that is not a demo."""
    return {row["objectId"] for row in files.read_csv(out / "data" / "flips.csv", FLIP_COLUMNS)}


def _digits(out: Path) -> bool:
    """Whether the classes of the demo under `out` are the digits; its labels may have been edited since."""
    return any(row["true"].isdigit() for row in files.read_csv(out / "data" / "flips.csv", FLIP_COLUMNS))


def sentence(suspects: Sequence[str], out: Path) -> str | None:
    """Say how many flipped labels are among the first suspects, objectIds in order; None for what is not a demo."""
    flipped = planted(out)
    found = len(flipped & set(suspects[: len(flipped)]))
    text = f"of the {len(flipped)} labels that the demo flipped, {found} are among the {len(flipped)} first"
    return text if flipped else None


def enlarged(digit: np.ndarray) -> Image.Image:
    """Return one digit, (8, 8) of 0 to 16, as a grey picture of SIDE x SIDE pixels."""
    grey = Image.fromarray((digit * 255 / 16).astype(np.uint8))
    return grey.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def _write_data(folder: Path, task: str | None = None) -> None:
    """Write split_label.csv, flips.csv and object/ab/cd/<id>.png: 2:1 odd to even, two bad files, one missing.

    task: "multiclass" for all digits, each a class.
    """
    from sklearn.datasets import load_digits

    rng, digits, many = np.random.default_rng(SEED), load_digits(), task == "multiclass"
    odd = digits.target % 2 == 1
    even = rng.permutation(np.flatnonzero(~odd))[: odd.sum() // 2]
    of_digit = [str(digit) if many else ("even", "odd")[digit % 2] for digit in range(10)]
    rows = []
    for index in range(len(odd)) if many else np.sort(np.concatenate([np.flatnonzero(odd), even])).tolist():
        digit = int(digits.target[index])
        name = f"{hashlib.sha256(str(index).encode()).hexdigest()[:4]}-digit{digit}-{index:04d}"
        path = folder / "object" / name[:2] / name[2:4] / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        enlarged(digits.images[index]).save(path)
        rows.append((name, of_digit[digit], str(rng.choice(["train", "validation", "test"], p=[0.8, 0.1, 0.1]))))
    flips = _flip(rows, rng)
    files.write_csv(folder / "split_label.csv", ("objectId", "value", "type"), rows)
    files.write_csv(folder / "flips.csv", FLIP_COLUMNS, flips)
    truncated, html, missing = (
        folder / "object" / name[:2] / name[2:4] / f"{name}.png" for name in (rows[at][0] for at in (100, 200, 300))
    )
    truncated.write_bytes(truncated.read_bytes()[:200])
    html.write_text("<html><body>404 Not Found</body></html>\n", encoding="utf-8")
    missing.unlink()
    print(
        f"demo      {len(rows):,} handwritten digits, {'each a class' if many else 'odd against even'}; "
        f"planted: {len(flips)} flipped labels (data/flips.csv), 2 corrupt files, 1 missing file"
    )


def _flip(rows: list[tuple[str, str, str]], rng: np.random.Generator) -> list[tuple[str, str, str]]:
    """Give FLIPPED of the rows another class, and return (objectId, true class, written class) of each."""
    classes, flips = sorted({value for _, value, _ in rows}), []
    for at in sorted(rng.choice(len(rows), round(FLIPPED * len(rows)), replace=False).tolist()):
        name, value, split = rows[at]
        others = [each for each in classes if each != value]
        rows[at] = (name, others[0] if len(others) == 1 else str(rng.choice(others)), split)
        flips.append((name, value, rows[at][1]))
    return flips
