"""Which table, media, backbone, cache and output folder a verb works on: what was given, else what was recorded."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict, cast

from extract import flags
from extract.backbones import engines
from extract.backbones.backbone import DEFAULT as BACKBONE
from extract.backbones.backbone import NAMES, REMOVED
from extract.backbones.lite import LITE0
from extract.flags import number, option
from extract.ground import files
from extract.ground.errors import InputError, visible
from extract.tables.task import AUTO, KINDS

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

    out: Path = option("folder of the outputs; default: artifacts")

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
    """Absolute paths and names: what every verb may be given, and remembers.

    task: of KINDS, None where the labels say it. positive: None for the second by name. input_size: S; None for the
    backbone's own. near: 1 where near-duplicates are one group.
    """

    cache: Path = option("the feature cache; default: OUT/features.h5")
    data: Path = option("label table (CSV): objectId,value[,type,path,group]; or a folder of classes")
    media: Path = option("folder of the images; default: $MEDIA_DIR, else the table's folder")
    backbone: str = option(
        "efficientnet-b0 to -b7, efficientnet-lite0 to -lite2, a TF-Hub handle, a SavedModel's folder, "
        "a .keras file, or B0's .h5"
    )
    task: str | None = option("what is asked; default: as the labels are", None, of="data", choices=(AUTO, *KINDS))
    positive: str | None = option("the class name that counts as 1; default: the second by name", None, of="data")
    input_size: int | None = option(
        "S, where the backbone takes others than its own", None, of="backbone", read=int, type=number(32)
    )
    near: int = option(
        "near-duplicates are one group, in made splits too; remembered",
        0,
        flag="--group-near",
        of="out",
        read=int,
        action=argparse.BooleanOptionalAction,
    )
    precision: str = option(
        "arithmetic precision; default: float32", "float32", of="backbone", choices=engines.PRECISIONS
    )

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
        comparison = [self.comparison_csv, self.comparison_json, self.comparison_html]
        return [self.leaks, self.suspects, *comparison, self.show, self.heads, self.exports]

    def inputs(self) -> list[Path]:
        """All files that heads are made of and used with, but for photos."""
        return [*self.given(), *self.records(), self.heads]

    def describe(self) -> str:
        """One line for the start of a run; the cache is named where it is not the one in OUT."""
        usual = {each.name: each.default for each in fields(self)} | {"cache": self.out / FEATURES, "media": self.data}
        unusual = {name: value for name, value in asdict(self).items() if value != usual[name]}
        return visible("  ".join(f"{name.upper()}={shown(value)}" for name, value in unusual.items()))


def resolve(**given: Any) -> Workspace:
    """Complete the fields that were given with what was recorded in OUT or beside CACHE; with neither, the demo.

    None and "" are not given. A folder as DATA is its own MEDIA. Errors: InputError when nothing says which table is
    meant, MEDIA is another, or table or backbone would be overwritten.
    """
    if unknown := given.keys() - {each.name for each in fields(Workspace)}:
        raise TypeError(f"not fields of Workspace: {unknown}")
    given = {name: value for name, value in given.items() if value not in (None, "")}
    if not given.keys() & {"out", "data", "cache"} and not Outputs(ARTIFACTS).record.exists():
        return _recorded_demo(given)
    out = _absolute(given.get("out", ARTIFACTS))
    if out.exists() and not out.is_dir():
        raise InputError("out-is-file", f"OUT={out} is a file", rule="OUT is a folder, made where it does not exist")
    mine = read_record(out)["inputs"]
    cache = _absolute(given.get("cache") or mine.get("cache") or out / FEATURES)
    beside = read_record(cache.parent)["inputs"]
    known = {name: value for name, value in beside.items() if name not in _belonging("out")} | mine
    if "data" not in {**known, **given}:
        raise InputError(
            "no-table",
            f"No table was given and none is recorded in {out}",
            then="Give DATA=path/to/split_label.csv, or the OUT that make features wrote",
        )
    data = _absolute(given.get("data") or known["data"])
    backbone = _backbone(given.get("backbone") or known.get("backbone") or BACKBONE)
    place = Workspace(out, cache, data, _media(given.get("media"), known, data), backbone)
    place = _with_options(place, given, known)
    files.refuse_inputs([*place.records(), *place.reports()], place.given(), then="Give another OUT or CACHE")
    return place


def _media(media: str | None, known: dict[str, str], data: Path) -> Path:
    """Return the folder of photos. A recorded one counts unless it was only the table's own folder, or the table."""
    recorded = known.get("media")
    if data.is_dir():
        if media and _absolute(media) != data:
            raise InputError(
                "media-with-folder",
                f"MEDIA={media} was given, but DATA={data} is a folder",
                rule="A folder of photos is its own MEDIA",
                then="Leave MEDIA out, or give a CSV as DATA",
            )
        return data
    if recorded in ("", known.get("data"), os.path.dirname(known.get("data", ""))):
        recorded = None
    return _absolute(media or recorded or os.environ.get("MEDIA_DIR") or data.parent)


def _backbone(spec: str) -> str:
    is_path = spec.endswith((".keras", ".h5")) or (spec not in (*NAMES, REMOVED) and _absolute(spec).is_dir())
    return str(_absolute(spec)) if is_path else spec


def _with_options(place: Workspace, given: dict[str, str | int], known: dict[str, str]) -> Workspace:
    """Complete the other fields: as given, else as recorded while what they belong to is the same."""
    same = [name for name in ("data", "backbone") if str(getattr(place, name)) == known.get(name)]
    valid = {name: value for name, value in known.items() if name in _belonging("out", *same)} | given
    others = [each for each in flags.options(Workspace) if each.metadata["of"] and each.name in valid]
    return replace(place, **{each.name: each.metadata["read"](valid[each.name]) for each in others})


def _belonging(*owners: str) -> set[str]:
    return {each.name for each in flags.options(Workspace) if each.metadata["of"] in owners}


def cache_of(*, out: str | None, cache: str | None) -> Path:
    """Return the cache that OUT and CACHE mean, for verbs that look at nothing else; with neither, the last one."""
    if cache is not None:
        return _absolute(cache)
    folder = out_of(out).out
    return _absolute(read_record(folder)["inputs"].get("cache") or folder / FEATURES)


def out_of(out: str | None) -> Outputs:
    """Return the files in OUT, for verbs that look at nothing else; with none, in the last one."""
    return Outputs(_absolute(out or (ARTIFACTS if Outputs(ARTIFACTS).record.exists() else DEMO)))


def shown(path: str | Path) -> str:
    """Return a path as a person at this prompt would write it: relative where it lies below the working folder."""
    here = os.getcwd() + os.sep
    return str(path).removeprefix(here)


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def demo(out: str | Path = DEMO, **inputs: Any) -> Workspace:
    """Return the demo's workspace in `out`, with other `inputs` than its usual ones; nothing is read or written."""
    out = _absolute(out)
    data = out / "data"
    usual = Workspace(out, out / FEATURES, data / "split_label.csv", data, LITE0, input_size=DEMO_INPUT_SIZE)
    return replace(usual, **inputs)


def _recorded_demo(given: dict[str, str | int]) -> Workspace:
    """Complete what was given with what is recorded of the demo."""
    usual = demo()
    known = read_record(usual.out)["inputs"]
    if known.get("backbone") in (None, REMOVED):
        known = {"backbone": usual.backbone, "input_size": str(usual.input_size)}
    place = demo(backbone=given.get("backbone", known["backbone"]), input_size=None)
    return _with_options(place, given, known)


class Record(TypedDict):
    """What last_run.json holds: the fields of Workspace as text, and facts of make features. Empty without a run."""

    inputs: dict[str, str]
    features: dict[str, Any]


def read_record(folder: Path) -> Record:
    """Return what the verbs recorded in `folder`. Errors: InputError for a damaged record."""
    path = Outputs(folder).record
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {"inputs": dict(record["inputs"]), "features": dict(record.get("features", {}))}
    except FileNotFoundError:
        return {"inputs": {}, "features": {}}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            "settings-damaged", f"{path} is damaged: {error}", then="Delete it and give DATA and MEDIA"
        ) from error


def write_record(workspace: Workspace, **entries: Any) -> None:
    """Record the inputs in OUT. entries: features, the facts of make features; without it, what is recorded stays."""
    inputs = {name: str(value) for name, value in asdict(workspace).items() if value and name != "out"}
    if workspace.cache == workspace.out / FEATURES:
        del inputs["cache"]  # so that a folder which is moved or copied goes on with its own
    features = read_record(workspace.out)["features"]
    before = {"features": features} if features else {}
    files.write_json(workspace.record, {"schema": 1, "inputs": inputs, **before, **entries})
