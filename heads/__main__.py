"""`python -m heads VERB`: flags to workspace to verb; words the errors."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from extract import run as extraction
from extract import workspace
from extract.__main__ import add_workspace_flags, workspace_of
from extract.errors import DONE, UsageError, guard
from extract.workspace import Workspace, shown


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
        "list": "say which heads there are",
    }
    parsers = {name: verbs.add_parser(name, help=what) for name, what in about.items()}
    for name, verb in parsers.items():
        add_workspace_flags(verb)
        if name in ("train", "export", "predict"):
            verb.add_argument("--head", help="a head's name; several with commas for train")
        if name in ("train", "compare", "export"):
            verb.add_argument("--seed", type=int, default=0, help="seed of training, resampling and sampling")
    parsers["export"].add_argument("--parity-images", type=int, default=256, help="images parity looks at; 0 for all")
    parsers["predict"].add_argument("--input", help="a file, a folder or a table; default: the recorded table")
    parsers["predict"].add_argument("--model", help="an exported model, used alone instead of a head and the cache")
    parsers["predict"].add_argument("--output", help="where the CSV goes; default: OUT/predictions.csv")
    parsers["predict"].add_argument(
        "--allow-outside", action="store_true", help="let the table name files outside MEDIA"
    )
    return parser


def _place(flags: argparse.Namespace, *, heads: bool = False) -> Workspace:
    """Resolve the workspace; for the embedded demo, make first what a verb needs."""
    place = workspace_of(flags)
    demo = place.out == Path(workspace.DEMO).absolute()
    if demo and not place.cache.exists():
        extraction.extract(extraction.Config(place))
    if demo and heads and not (place.out / "heads").exists():
        _train(argparse.Namespace(**{**vars(flags), "head": None, "seed": 0}))
    return place


def _train(flags: argparse.Namespace) -> int:
    from heads import dataset, registry, report, train

    place = _place(flags)
    names = flags.head.split(",") if flags.head else list(registry.DEFAULT)
    for name in names:
        registry.create(name, flags.seed)  # an unknown name is refused before anything is read
    data = dataset.join(place)
    _print_notes("head", place, data.notes)
    heads, chosen = train.run(place, data, names, flags.seed, test="all")
    print("\n".join([report.table(heads, chosen), *report.legend(data, heads, chosen)]))
    return DONE


def _compare(flags: argparse.Namespace) -> int:
    from heads import dataset, registry, report, train

    place = _place(flags)
    data = dataset.join(place)
    _print_notes("compare", place, data.notes)
    heads, chosen = train.run(place, data, list(registry.HEADS), flags.seed, test="chosen")
    report.write(place, data, heads, chosen)
    print("\n".join([report.table(heads, chosen), *report.legend(data, heads, chosen)]))
    print(
        f"compare   {shown(place.out / 'comparison.csv')} and comparison.json; bundles in {shown(place.out / 'heads')}"
    )
    return DONE


def _print_notes(verb: str, place: Workspace, notes: list[str]) -> None:
    print(f"{verb:<9} {place.describe()}")
    for note in notes:
        print(f"labels    {note}")


def _export(flags: argparse.Namespace) -> int:
    from heads import bundle, export

    place = _place(flags, heads=True)
    name, why = bundle.choose(place.out / "heads", flags.head or None)
    print(f"export    head {name} ({why})", flush=True)
    for result in export.export(place, name, n_images=flags.parity_images, seed=flags.seed):
        print(
            f"parity    {result.format:<12} max |dp| {result.max_abs_diff:.1e} over {result.n_images} images, "
            f"{result.flips} flips: {'ok' if result.ok else 'FAILED'}"
        )
    print(f"export    {shown(place.out / 'exports' / name)}")
    return DONE


def _predict(flags: argparse.Namespace) -> int:
    from heads import bundle, predict

    if flags.model:
        return _predict_alone(flags)
    place = _place(flags, heads=True)
    name, why = bundle.choose(place.out / "heads", flags.head or None)
    print(f"predict   head {name} ({why})", flush=True)
    source = Path(flags.input) if flags.input else place.data
    files = predict.list_files(source, place.media, allow_outside=flags.allow_outside)
    output = Path(flags.output) if flags.output else place.out / "predictions.csv"
    print("predict   " + predict.write(output, predict.from_bundle(place, name, files)))
    return DONE


def _predict_alone(flags: argparse.Namespace) -> int:
    """Use an exported model with nothing of ours beside it: no cache, no record; INPUT must be given."""
    from heads import predict

    if not flags.input:
        raise UsageError("--model was given without --input", then="Give INPUT=a file, a folder or a table")
    source = Path(flags.input)
    media = Path(flags.media or os.environ.get("MEDIA_DIR") or source.parent)
    files = predict.list_files(source, media, allow_outside=flags.allow_outside)
    print(f"predict   {flags.model}, alone", flush=True)
    output = Path(flags.output or Path(flags.out or workspace.ARTIFACTS) / "predictions.csv")
    print("predict   " + predict.write(output, predict.from_export(Path(flags.model), files)))
    return DONE


def _list(flags: argparse.Namespace) -> int:
    from heads import bundle, registry

    trained = bundle.trained(workspace_of(flags).out / "heads")
    for name in registry.HEADS:
        print(f"{name:<18}{'trained' if name in trained else ''}".rstrip())
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code (see extract/errors.py)."""
    flags = _parser().parse_args(argv)
    verbs = {"train": _train, "compare": _compare, "export": _export, "predict": _predict, "list": _list}
    return guard(lambda: verbs[flags.verb](flags))


if __name__ == "__main__":
    sys.exit(main())
