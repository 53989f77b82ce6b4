"""`python -m heads VERB`: flags to workspace to verb; words the errors."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any

from extract import demo, flags, workspace
from extract import run as extraction
from extract.__main__ import workspace_of
from extract.backbones import backbone, engines
from extract.files import manifest
from extract.flags import number
from extract.ground import files as artifacts
from extract.ground.errors import DONE, UsageError, guard, in_utf8
from extract.store import cache
from extract.workspace import Outputs, Workspace, shown

FLAGS: dict[str, dict[str, Any]] = {
    "head": {"help": "a head's name; several with commas for train"},
    "seed": {"type": number(0), "default": 0, "help": "seed of training, resampling and sampling"},
    "sweep": {"nargs": "?", "const": "", "metavar": "AXES", "help": "hundreds of linear heads, too"},
    "threshold": {"default": "0.5", "metavar": "SPEC", "help": "what each head's threshold is for"},
    "prior": {"type": float, "help": "share of positives where the threshold will be used"},
    "calibrate": {
        "choices": ("temperature", "platt", "isotonic"),
        "help": "a map of each head's logits, fitted out of fold",
    },
    "formats": {"default": "keras,h5,saved_model", "help": "tflite and onnx, too; or all"},
    "parity-images": {"type": number(0), "default": 256, "help": "images of parity; 0: all"},
    "input": {"help": "a file, a folder or a table; default: the recorded table"},
    "model": {"help": "an exported model, used alone instead of a head and the cache"},
    "engine": {"choices": ("auto", *engines.NAMES), "default": "auto", "help": "for new images"},
    "output": {"help": "where the CSV goes, - for stdout; default: predictions.csv or labels.csv in OUT"},
    "allow-outside": {"action": "store_true", "help": "let the table name files outside MEDIA"},
    "port": {"type": number(0), "default": 0, "help": "on 127.0.0.1; default: any that is free"},
    "who": {"help": "who answers, for labels_review.csv; default: the user's name here"},
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m heads", description="Stage 2: features.h5 to heads and full models."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (_, about, names) in VERBS.items():
        verb = verbs.add_parser(name, help=about)
        flags.add(verb, Workspace, but=["precision"] if name in ("train", "compare") else ["precision", "near"])
        for flag in names.split():
            verb.add_argument(f"--{flag}", **FLAGS[flag])
    return parser


def _place(args: argparse.Namespace, *, heads: bool = False) -> Workspace:
    """Resolve the workspace; for the demo, make first what a verb needs."""
    place = workspace_of(args)
    demo.first(place, place.cache, lambda: extraction.extract(extraction.Config(place)))
    if heads:
        from heads.compare import run

        demo.first(place, place.heads, lambda: run.head(place))
    if args.backbone or args.input_size:  # what is given must be the cache's; not given, the cache's own is meant
        recipe = backbone.recipe(backbone.resolve(place.backbone, place.input_size), place.precision)
        cache.refuse_other_recipe(cache.open_cache(place.cache).recipe, recipe, where=str(place.cache))
    return place


def _train(args: argparse.Namespace) -> int:
    from heads.compare import run
    from heads.menu import registry

    names = dict.fromkeys(args.head.split(",")) if args.head else registry.DEFAULT
    run.head(_place(args), _config(args, names))
    return DONE


def _compare(args: argparse.Namespace) -> int:
    from heads.compare import run
    from heads.menu import registry

    place = _place(args)
    run.compare(place, _config(args, registry.COMPARED))
    print(f"compare   {shown(place.comparison_html)}, .csv and .json; bundles in {shown(place.heads)}")
    return DONE


def _config(args: argparse.Namespace, names: Iterable[str]) -> Any:
    """Return the train.Config that the flags of `train` and `compare` ask for."""
    from heads import train

    return train.config(list(names), args.seed, args.threshold, args.prior, args.calibrate, args.sweep)


def _export(args: argparse.Namespace) -> int:
    from heads.ship import bundle, card, export, formats

    asked = formats.parse(args.formats)
    place = _place(args, heads=True)
    name, why = bundle.choose(place.heads, args.head or None, for_export=True)
    print(f"export    head {name} ({why})", flush=True)
    results = export.export(place, name, n_images=args.parity_images, seed=args.seed, asked=asked)
    for result in results:
        print(
            f"parity    {result.format:<21}{result.input:<14} max |dp| {result.max_abs_diff:.1e} over "
            f"{result.n_images:,} images, {result.flips} flips: {'ok' if result.ok else 'FAILED'}"
        )
    if export.KERAS & set(asked) and not {"model.keras", "model.h5"} & {result.format for result in results}:
        print(f"parity    {card.NO_KERAS}")
    print(f"export    {shown(place.export(name))}")
    return DONE


def _predict(args: argparse.Namespace) -> int:
    from heads.ship import bundle, predict

    if args.model:
        return _predict_alone(args)
    place = _place(args, heads=True)
    name, why = bundle.choose(place.heads, args.head or None)
    print(f"predict   head {name} ({why})", flush=True)
    listed, source = (predict.list_files, Path(args.input)) if args.input else (predict.list_table, place.data)
    files = listed(source, place.media, allow_outside=args.allow_outside)
    output = artifacts.output(args.output) if args.output else place.predictions
    photos = manifest.photos(place.manifest)  # beside INPUT's own: the next verb reads them
    artifacts.refuse_output(output, chain(place.inputs(), _read(source, files), photos))
    print("predict   " + predict.write(output, predict.from_bundle(place, name, files, args.engine)))
    return DONE


def _read(source: Path, files: list[tuple[str, Path | None]]) -> list[Path]:
    """Return the files that INPUT means, itself among them; of a folder only the images are read."""
    return ([] if source.is_dir() else [source]) + [path for _, path in files if path]


def _predict_alone(args: argparse.Namespace) -> int:
    """Use an exported model with nothing of ours beside it: no cache, no record; INPUT must be given."""
    from heads.ship import predict
    from heads.ship.bundle import FACTS
    from heads.ship.formats import LABELS

    if args.engine != "auto":
        then = "Leave ENGINE out: an export runs on its own runtime"
        raise UsageError("engine-with-model", "--engine was given with --model", then=then)
    if not args.input:
        then = "Give INPUT=a file, a folder or a table"
        raise UsageError("model-without-input", "--model was given without --input", then=then)
    source, model = Path(args.input), Path(args.model)
    media = Path(args.media or os.environ.get("MEDIA_DIR") or source.parent)
    files = predict.list_files(source, media, allow_outside=args.allow_outside)
    print(f"predict   {model}, alone", flush=True)
    output = artifacts.output(args.output or str(Outputs(Path(args.out or workspace.ARTIFACTS)).predictions))
    names = [folder / name for folder in list(model.absolute().parents)[:2] for name in (FACTS, LABELS)]
    artifacts.refuse_output(output, chain([model, *names], _read(source, files)))
    print("predict   " + predict.write(output, predict.from_export(model, files)))
    return DONE


def _show(args: argparse.Namespace) -> int:
    from heads.compare import run, show
    from heads.ship import bundle

    place = _place(args)
    demo.first(place, place.suspects, lambda: run.compare(place))
    name, why = bundle.choose(place.heads, args.head or None)
    print(f"show      head {name} ({why})", flush=True)
    print(f"show      {shown(show.draw(place, name, args.seed))}: the most suspect labels, and predictions")
    return DONE


def _review(args: argparse.Namespace) -> int:
    try:
        from heads.review import server
    except ModuleNotFoundError as error:
        raise UsageError(
            "review-packages-missing",
            f"Label review needs {error.name}, which is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-review.txt",
        ) from error
    place = _place(args)
    print(f"review    {place.describe()}", flush=True)
    server.run(place, args.who or _user(), args.port)
    return DONE


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())


def _labels(args: argparse.Namespace) -> int:
    from heads.review import merged

    place = _place(args)
    target = artifacts.output(args.output) if args.output else place.labels
    rows, changed = merged.write(place, target)
    print(f"labels    {shown(target)}: {rows:,} rows, {changed:,} labels other than in {shown(place.data)}")
    if target.is_file() and not artifacts.is_stdout(target):  # no pipe and no device
        print(f'labels    to go on with it: make features DATA="{shown(target)}" MEDIA="{shown(place.media)}"')
    return DONE


def _list(args: argparse.Namespace) -> int:
    from heads.menu import registry
    from heads.ship import bundle

    trained = bundle.trained(workspace.out_of(args.out or None).heads)
    for name in registry.HEADS:
        print(f"{name:<18}{'trained' if name in trained else ''}".rstrip())
    return DONE


VERBS: dict[str, tuple[Callable[[argparse.Namespace], int], str, str]] = {
    "train": (_train, "train heads on the cached features", "head seed sweep threshold prior calibrate"),
    "compare": (_compare, "set every head side by side on the same rows", "seed sweep threshold prior calibrate"),
    "export": (
        _export,
        "join backbone and head into one saved model, after parity",
        "head seed formats parity-images",
    ),
    "predict": (
        _predict,
        "write probabilities for a file, a folder or a table",
        "head input model engine output allow-outside",
    ),
    "show": (_show, "draw the most suspect labels and some predictions as pictures", "head seed"),
    "review": (_review, "look at labels in the browser, the most suspicious first, and mend them", "port who"),
    "labels": (_labels, "write the table with the labels that review gave", "output"),
    "list": (_list, "say which heads there are", ""),
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code (see extract/ground/errors.py)."""
    return guard(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args = _parser().parse_args(argv)
    output = getattr(args, "output", None)
    quiet = output and artifacts.is_stdout(artifacts.output(output))
    with redirect_stdout(sys.stderr) if quiet else nullcontext():  # stdout is the table's alone
        return VERBS[args.verb][0](args)


if __name__ == "__main__":
    in_utf8()
    sys.exit(main())
