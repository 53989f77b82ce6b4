"""`python -m heads VERB`: flags to workspace to verb; words the errors."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from extract import demo, workspace
from extract import run as extraction
from extract.__main__ import add_workspace_flags, number, workspace_of
from extract.backbones import backbone, engines
from extract.files import manifest
from extract.ground import files as artifacts
from extract.ground.errors import DONE, UsageError, guard, in_utf8
from extract.store import cache
from extract.workspace import Workspace, shown

if TYPE_CHECKING:
    from heads import train
    from heads.compare.audit import Audit
    from heads.data.dataset import Dataset


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m heads", description="Stage 2: features.h5 to heads and full models."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    about = {
        "train": "train heads on the cached features",
        "compare": "set every head side by side on the same rows",
        "export": "join backbone and head into one saved model, after parity",
        "predict": "write probabilities for a file, a folder or a table",
        "show": "draw the most suspect labels and some predictions as pictures",
        "review": "look at labels in the browser, the most suspicious first, and mend them",
        "labels": "write the table with the labels that review gave",
        "list": "say which heads there are",
    }
    parsers = {name: verbs.add_parser(name, help=what) for name, what in about.items()}
    for name, verb in parsers.items():
        add_workspace_flags(verb)
        if name in ("train", "export", "predict", "show"):
            verb.add_argument("--head", help="a head's name; several with commas for train")
        if name in ("train", "compare", "export", "show"):
            verb.add_argument("--seed", type=number(0), default=0, help="seed of training, resampling and sampling")
        if name in ("train", "compare"):
            verb.add_argument(
                "--group-near",
                action=argparse.BooleanOptionalAction,
                help="near-duplicates are one group, in made splits too; remembered",
            )
            verb.add_argument("--sweep", nargs="?", const="", metavar="AXES", help="hundreds of linear heads, too")
            verb.add_argument("--threshold", default="0.5", metavar="SPEC", help="what each head's threshold is for")
            verb.add_argument("--prior", type=float, help="share of positives where the threshold will be used")
            how = ("temperature", "platt", "isotonic")
            verb.add_argument("--calibrate", choices=how, help="a map of each head's logits, fitted out of fold")
    parsers["review"].add_argument("--port", type=number(0), default=0, help="on 127.0.0.1; default: any that is free")
    parsers["review"].add_argument("--who", help="who answers, for labels_review.csv; default: the user's name here")
    parsers["labels"].add_argument("--output", help="where the table goes, - for stdout; default: OUT/labels.csv")
    parsers["export"].add_argument("--formats", default="keras,h5,saved_model", help="tflite and onnx, too; or all")
    parsers["export"].add_argument("--parity-images", type=number(0), default=256, help="images of parity; 0: all")
    parsers["predict"].add_argument("--input", help="a file, a folder or a table; default: the recorded table")
    parsers["predict"].add_argument("--model", help="an exported model, used alone instead of a head and the cache")
    parsers["predict"].add_argument("--engine", choices=("auto", *engines.NAMES), default="auto", help="for new images")
    parsers["predict"].add_argument("--output", help="where the CSV goes, - for stdout; default: OUT/predictions.csv")
    parsers["predict"].add_argument(
        "--allow-outside", action="store_true", help="let the table name files outside MEDIA"
    )
    return parser


def _place(flags: argparse.Namespace, *, heads: bool = False) -> Workspace:
    """Resolve the workspace; for the demo, make first what a verb needs."""
    place = workspace_of(flags)
    demo = place.out == Path(workspace.DEMO).absolute()
    if demo and not place.cache.exists():
        extraction.extract(extraction.Config(place))
    if demo and heads and not (place.out / "heads").exists():
        _train_heads("head", place)
    if flags.backbone or flags.input_size:  # what is given must be the cache's; not given, the cache's own is meant
        recipe = backbone.recipe(backbone.resolve(place.backbone, place.input_size), place.precision)
        cache.refuse_other_recipe(cache.open_cache(place.cache).recipe, recipe, where=str(place.cache))
    return place


def _config(flags: argparse.Namespace, names: list[str]) -> train.Config:
    """Return how to train what `train` and `compare` were asked for."""
    from heads import train
    from heads.menu import registry, sweep
    from heads.stats import decision

    axes = None
    if flags.sweep is not None:
        axes, names = sweep.parse(flags.sweep), list(dict.fromkeys([*names, "sweep"]))
    for name in names:
        registry.create(name, flags.seed)  # an unknown name is refused before anything is read
    return train.Config(names, flags.seed, decision.parse(flags.threshold, flags.prior), flags.calibrate, axes)


def _train_heads(verb: str, place: Workspace, config: train.Config | None = None) -> None:
    """Train heads (without a config the verb's own, for the demo), print the table, and for compare write it."""
    from heads import train
    from heads.compare import leaks, report
    from heads.data import dataset
    from heads.menu import registry

    config = config or train.Config(list(registry.COMPARED if verb == "compare" else registry.DEFAULT))
    print(f"{verb:<9} {place.describe()}", flush=True)
    data = dataset.join(place)
    for note in data.notes:
        print(f"labels    {note}")
    left_out: list[str] = []
    heads, chosen = train.run(place, data, config, left_out)
    found = leaks.find(data) if verb == "compare" else None
    told_leaks = leaks.told(found, leaks.figures(found, data, heads, config.seed), heads) if found else None
    legend = report.legend(data, heads, chosen, told_leaks, left_out)
    print("\n".join([report.table(heads, chosen), *legend]), flush=True)
    if found:
        leaks.write(place, found)
        print(f"leaks     {found.sentence(shown(place.out / 'leaks.csv'))}")
        told = report.write(place, data, heads, chosen, told_leaks, left_out)
        report.write_page(place, data, heads, told, _audit(place, data, config.seed), found)


def _audit(place: Workspace, data: Dataset, seed: int) -> Audit:
    """Write suspects.csv and say how many labels it holds, and in the demo how many of the planted ones."""
    from heads.compare import audit

    found = audit.suspects(data, seed)
    audit.write(place, found)
    print(f"audit     {found.sentence(shown(place.out / 'suspects.csv'))}")
    planted = demo.planted(place.out)
    if planted and not found.why_not:
        first = sum(row[0] in planted for row in found.rows[: len(planted)])
        print(
            f"audit     of the {len(planted)} labels that the demo flipped, {first} are among the {len(planted)} first"
        )
    return found


def _train(flags: argparse.Namespace) -> int:
    from heads.menu import registry

    names = list(dict.fromkeys(flags.head.split(","))) if flags.head else list(registry.DEFAULT)
    _train_heads("head", _place(flags), _config(flags, names))
    return DONE


def _compare(flags: argparse.Namespace) -> int:
    from heads.menu import registry

    place = _place(flags)
    _train_heads("compare", place, _config(flags, list(registry.COMPARED)))
    print(f"compare   {shown(place.out / 'comparison.html')}, .csv and .json; bundles in {shown(place.out / 'heads')}")
    return DONE


def _choose(place: Workspace, name: str | None, *, for_export: bool = False) -> tuple[str, str]:
    from heads.ship import bundle

    if name and name not in bundle.trained(place.out / "heads"):
        from heads.menu import registry

        registry.create(name, 0)  # no such head: the error lists those there are
    return bundle.choose(place.out / "heads", name, for_export=for_export)


def _export(flags: argparse.Namespace) -> int:
    from heads.ship import card, export, formats

    asked = formats.parse(flags.formats)
    place = _place(flags, heads=True)
    name, why = _choose(place, flags.head or None, for_export=True)
    print(f"export    head {name} ({why})", flush=True)
    results = export.export(place, name, n_images=flags.parity_images, seed=flags.seed, asked=asked)
    for result in results:
        print(
            f"parity    {result.format:<21}{result.input:<14} max |dp| {result.max_abs_diff:.1e} over "
            f"{result.n_images:,} images, {result.flips} flips: {'ok' if result.ok else 'FAILED'}"
        )
    if export.KERAS & set(asked) and not {"model.keras", "model.h5"} & {result.format for result in results}:
        print(f"parity    {card.NO_KERAS}")
    print(f"export    {shown(place.out / 'exports' / name)}")
    return DONE


def _predict(flags: argparse.Namespace) -> int:
    from heads.ship import predict

    if flags.model:
        return _predict_alone(flags)
    place = _place(flags, heads=True)
    name, why = _choose(place, flags.head or None)
    print(f"predict   head {name} ({why})", flush=True)
    listed, source = (predict.list_files, Path(flags.input)) if flags.input else (predict.list_table, place.data)
    files = listed(source, place.media, allow_outside=flags.allow_outside)
    output = artifacts.output(flags.output) if flags.output else place.out / "predictions.csv"
    photos = manifest.photos(place.beside_cache)  # beside INPUT's own: the next verb reads them
    artifacts.refuse_output(output, chain(place.inputs(), _read(source, files), photos))
    print("predict   " + predict.write(output, predict.from_bundle(place, name, files, flags.engine)))
    return DONE


def _read(source: Path, files: list[tuple[str, Path | None]]) -> list[Path]:
    """Return the files that INPUT means, itself among them; of a folder only the images are read."""
    return ([] if source.is_dir() else [source]) + [path for _, path in files if path]


def _predict_alone(flags: argparse.Namespace) -> int:
    """Use an exported model with nothing of ours beside it: no cache, no record; INPUT must be given."""
    from heads.ship import predict

    if flags.engine != "auto":
        raise UsageError(
            "--engine was given with --model", rule="An export runs on its own runtime", then="Leave ENGINE out"
        )
    if not flags.input:
        raise UsageError("--model was given without --input", then="Give INPUT=a file, a folder or a table")
    source = Path(flags.input)
    media = Path(flags.media or os.environ.get("MEDIA_DIR") or source.parent)
    files = predict.list_files(source, media, allow_outside=flags.allow_outside)
    print(f"predict   {flags.model}, alone", flush=True)
    output = artifacts.output(flags.output or f"{flags.out or workspace.ARTIFACTS}/predictions.csv")
    model = Path(flags.model).absolute()
    facts = [folder / "head.json" for folder in list(model.parents)[:2]]
    artifacts.refuse_output(output, chain([model, *facts], _read(source, files)))
    print("predict   " + predict.write(output, predict.from_export(Path(flags.model), files)))
    return DONE


def _show(flags: argparse.Namespace) -> int:
    from heads.compare import show

    place = _place(flags)
    if place.out == Path(workspace.DEMO).absolute() and not (place.out / "suspects.csv").exists():
        _train_heads("compare", place)
    name, why = _choose(place, flags.head or None)
    print(f"show      head {name} ({why})", flush=True)
    print(f"show      {shown(show.draw(place, name, flags.seed))}: the most suspect labels, and predictions")
    return DONE


def _review(flags: argparse.Namespace) -> int:
    try:
        from heads.review import server
    except ModuleNotFoundError as error:
        raise UsageError(
            f"Label review needs {error.name}, which is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-review.txt",
        ) from error
    place = _place(flags)
    print(f"review    {place.describe()}", flush=True)
    server.run(place, flags.who or _user(), flags.port)
    return DONE


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _labels(flags: argparse.Namespace) -> int:
    from heads.review import merged

    place = _place(flags)
    target = artifacts.output(flags.output) if flags.output else place.out / "labels.csv"
    rows, changed = merged.write(place, target)
    print(f"labels    {shown(target)}: {rows:,} rows, {changed:,} labels other than in {shown(place.data)}")
    if not artifacts.is_stdout(target):
        print(f'labels    to go on with it: make features DATA="{shown(target)}" MEDIA="{shown(place.media)}"')
    return DONE


def _list(flags: argparse.Namespace) -> int:
    from heads.menu import registry
    from heads.ship import bundle

    trained = bundle.trained(workspace.out_of(flags.out or None) / "heads")
    for name in registry.HEADS:
        print(f"{name:<18}{'trained' if name in trained else ''}".rstrip())
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code (see extract/ground/errors.py)."""
    return guard(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    flags = _parser().parse_args(argv)
    verbs = {
        "train": _train,
        "compare": _compare,
        "export": _export,
        "predict": _predict,
        "show": _show,
        "review": _review,
        "labels": _labels,
        "list": _list,
    }
    output = getattr(flags, "output", None)
    if output and artifacts.is_stdout(artifacts.output(output)):
        with redirect_stdout(sys.stderr):  # stdout is the table's alone
            return verbs[flags.verb](flags)
    return verbs[flags.verb](flags)


if __name__ == "__main__":
    in_utf8()
    sys.exit(main())
