"""Which table, media, backbone, cache and output folder a verb works on: what was given, else what was recorded."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from extract.backbones.backbone import DEFAULT as BACKBONE
from extract.backbones.backbone import NAMES, REMOVED
from extract.backbones.lite import LITE0
from extract.ground import files
from extract.ground.errors import InputError, visible

ARTIFACTS = Path("artifacts")
DEMO = ARTIFACTS / "demo"
DEMO_INPUT_SIZE = 96  # of 64, 96 and 128 it tells the digits best
FEATURES = "features.h5"


class _File:
    """A path by name: `name` in the folder that the attribute `folder` holds."""

    def __init__(self, name: str, folder: str = "out") -> None:
        self.name, self.folder = name, folder

    def __get__(self, place: Outputs, owner: type) -> Path:
        return cast(Path, getattr(place, self.folder)) / self.name


@dataclass(frozen=True)
class Outputs:
    """The files in one OUT, there or not. The first four are read again, the others are made anew."""

    out: Path

    record = _File("last_run.json")
    splits = _File("splits.csv")
    conflicts = _File("conflicts.csv")
    answers = _File("labels_review.csv")
    leaks = _File("leaks.csv")
    suspects = _File("suspects.csv")
    comparison_csv = _File("comparison.csv")
    comparison_json = _File("comparison.json")
    comparison_html = _File("comparison.html")
    show = _File("show.png")
    heads = _File("heads")
    exports = _File("exports")
    labels = _File("labels.csv")
    predictions = _File("predictions.csv")

    def head(self, name: str) -> Path:
        """The bundle of a head."""
        return self.heads / name

    def export(self, name: str) -> Path:
        """The folder of an exported head."""
        return self.exports / name


@dataclass(frozen=True)
class Workspace(Outputs):
    """Absolute paths and names. positive: the class that counts as 1, or None for the second by name.

    input_size: S in place of the backbone's own, or None. near: 1 where near-duplicates are one group. precision: of
    the arithmetic that makes features.
    """

    cache: Path
    data: Path
    media: Path
    backbone: str
    positive: str | None = None
    input_size: int | None = None
    near: int = 0
    precision: str = "float32"

    manifest = _File("manifest.csv", "beside_cache")
    quarantine = _File("quarantine.csv", "beside_cache")

    @property
    def beside_cache(self) -> Path:
        """The folder of manifest.csv, quarantine.csv and the parts."""
        return self.cache.parent

    @property
    def all_splits(self) -> list[Path]:
        """Every splits.csv that counts: beside the cache, then in OUT, which wins."""
        return list(dict.fromkeys((Outputs(self.beside_cache).splits, self.splits)))

    @property
    def lock(self) -> Path:
        """What one run at a time holds."""
        return files.lock_of(self.cache)

    @property
    def parts(self) -> Path:
        """The folder of what a running extraction has embedded so far."""
        return self.cache.with_name(f"{self.cache.stem}.parts")

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.cache.with_name(f"{self.cache.stem}.shards")

    def shard(self, i: int, n: int) -> Workspace:
        """The i-th of n shards: an extraction with a folder, a table and a cache of its own."""
        out = self.shards / f"{i}-of-{n}"
        return replace(self, out=out, cache=out / FEATURES, data=out / "slice.csv", near=0)

    def thumbnail(self, sha256: str) -> Path:
        """A small picture that the review keeps, by the digest of its photo."""
        return self.beside_cache / "thumbnails" / sha256[:2] / f"{sha256}.jpg"

    def given(self) -> list[Path]:
        """The files that a user gave to be read, but for photos: the table and the backbone's file or folder."""
        return ([] if self.data.is_dir() else [self.data]) + ([] if self.backbone in NAMES else [Path(self.backbone)])

    def records(self) -> list[Path]:
        """The files in OUT and beside the cache that verbs write and read again, there or not."""
        folders = [Outputs(folder) for folder in {self.out, self.beside_cache}]
        tables = [path for each in folders for path in (each.record, each.splits, each.conflicts, each.answers)]
        return [self.cache, self.manifest, self.quarantine, *tables]

    def reports(self) -> list[Path]:
        """What verbs make anew in OUT, but for what a user may name."""
        tables = [self.leaks, self.suspects, self.comparison_csv, self.comparison_json]
        return [*tables, self.comparison_html, self.show, self.heads, self.exports]

    def inputs(self) -> list[Path]:
        """All files that heads are made of and used with, but for photos."""
        return [*self.given(), *self.records(), self.heads]

    def describe(self) -> str:
        """One line for the start of a run; the cache is named where it is not the one in OUT."""
        usual: dict[str, Any] = {
            "cache": self.out / FEATURES,
            "media": self.data,
            "positive": None,
            "input_size": None,
        }
        usual |= {"near": 0, "precision": "float32"}
        said = {name: value for name, value in asdict(self).items() if value != usual.get(name, "")}
        return visible("  ".join(f"{name.upper()}={shown(value)}" for name, value in said.items()))


def resolve(
    *,
    data: str | None = None,
    media: str | None = None,
    backbone: str | None = None,
    out: str | None = None,
    cache: str | None = None,
    positive: str | None = None,
    input_size: int | None = None,
    near: bool | None = None,
    precision: str | None = None,
) -> Workspace:
    """Complete what was given with what was recorded in OUT or beside CACHE; with neither, the demo.

    A folder as DATA is its own MEDIA. Errors: InputError when nothing says which table is meant, MEDIA is another, or
    table or backbone would be overwritten.
    """
    if out is None and data is None and cache is None and not Outputs(ARTIFACTS).record.exists():
        return _recorded_demo(backbone, input_size, near, precision)
    folder = _absolute(out or ARTIFACTS)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"OUT={folder} is a file", rule="OUT is a folder, made where it does not exist")
    mine = read_record(folder).get("inputs", {})
    cache_path = _absolute(cache or mine.get("cache") or folder / FEATURES)
    known = {**read_record(cache_path.parent).get("inputs", {}), **mine}
    if data is None and "data" not in known:
        raise InputError(
            f"No table was given and none is recorded in {folder}",
            then="Give DATA=path/to/split_label.csv, or the OUT that make features wrote",
        )
    table = _absolute(data or known["data"])
    if table.is_dir() and media and _absolute(media) != table:
        raise InputError(
            f"MEDIA={media} was given, but DATA={table} is a folder",
            rule="A folder of photos is its own MEDIA",
            then="Leave MEDIA out, or give a CSV as DATA",
        )
    where = table if table.is_dir() else media or _media_given(known) or os.environ.get("MEDIA_DIR") or table.parent
    spec = backbone or known.get("backbone") or BACKBONE
    if spec.endswith((".keras", ".h5")) or (spec not in (*NAMES, REMOVED) and _absolute(spec).is_dir()):
        spec = str(_absolute(spec))
    if input_size is None and spec == known.get("backbone") and "input_size" in known:
        input_size = int(known["input_size"])
    if positive is None and str(table) == known.get("data"):
        positive = known.get("positive")
    if precision is None:
        precision = known.get("precision", "float32") if spec == known.get("backbone") else "float32"
    place = Workspace(
        folder, cache_path, table, _absolute(where), spec, positive, input_size, _near(near, mine), precision
    )
    files.refuse_inputs([*place.records(), *place.reports()], place.given(), then="Give another OUT or CACHE")
    return place


def cache_of(*, out: str | None, cache: str | None) -> Path:
    """Return the cache that OUT and CACHE mean, for verbs that look at nothing else; with neither, the last one."""
    if cache is not None:
        return _absolute(cache)
    folder = out_of(out).out
    return _absolute(read_record(folder).get("inputs", {}).get("cache") or folder / FEATURES)


def out_of(out: str | None) -> Outputs:
    """Return the files in OUT, for verbs that look at nothing else; with none, in the last one."""
    return Outputs(_absolute(out or (ARTIFACTS if Outputs(ARTIFACTS).record.exists() else DEMO)))


def _media_given(known: dict[str, str]) -> str | None:
    """Return a recorded MEDIA, unless it was only the table's own folder, or the folder that was the table."""
    media = known.get("media")
    return media if media and media not in (known["data"], os.path.dirname(known["data"])) else None


def shown(path: str | Path) -> str:
    """Return a path as a person at this prompt would write it: relative where it lies below the working folder."""
    here = os.getcwd() + os.sep
    return str(path).removeprefix(here)


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _near(given: bool | None, recorded: dict[str, str]) -> int:
    return int(recorded.get("near", 0)) if given is None else int(given)


def demo(out: str | Path = DEMO, **inputs: Any) -> Workspace:
    """Return the demo's workspace in `out`, with other `inputs` than its usual ones; nothing is read or written."""
    out = _absolute(out)
    data = out / "data"
    usual = Workspace(out, out / FEATURES, data / "split_label.csv", data, LITE0, input_size=DEMO_INPUT_SIZE)
    return replace(usual, **inputs)


def _recorded_demo(spec: str | None, input_size: int | None, near: bool | None, precision: str | None) -> Workspace:
    """Complete what was given with what is recorded of the demo."""
    known = read_record(_absolute(DEMO)).get("inputs", {})
    if known.get("backbone") in (None, REMOVED):
        known = {"backbone": LITE0, "input_size": str(DEMO_INPUT_SIZE)}
    if input_size is None and spec in (None, known["backbone"]) and "input_size" in known:
        input_size = int(known["input_size"])
    precision = precision or known.get("precision", "float32")
    spec = spec or known["backbone"]
    return demo(backbone=spec, input_size=input_size, near=_near(near, known), precision=precision)


def read_record(folder: Path) -> dict[str, Any]:
    """Return what the verbs recorded in `folder`; {} where none did."""
    path = Outputs(folder).record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("inputs"), dict):
            raise ValueError("it has no inputs")
        return record
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise InputError(
            f"{path} is not as it was written: {error}", then="Delete it and give DATA and MEDIA"
        ) from error


def write_record(workspace: Workspace, **entries: Any) -> None:
    """Record the inputs in OUT, with further entries (a verb's own facts) beside them."""
    inputs = {name: str(value) for name, value in asdict(workspace).items() if value and name != "out"}
    if workspace.cache == workspace.out / FEATURES:
        del inputs["cache"]  # so that a folder which is moved or copied goes on with its own
    record = {**read_record(workspace.out), "schema": 1, "inputs": inputs, **entries}
    files.write_json(workspace.record, record)
