"""`python -m extract VERB`: flags to config to run; words the errors."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from extract import __version__, run, workspace
from extract.backbones import engines
from extract.ground.errors import DONE, CacheError, guard, in_utf8
from extract.store import cache


def add_workspace_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every verb shares; each is remembered once given."""
    parser.add_argument("--data", help="label table (CSV): objectId,value[,type,path,group]; or a folder of classes")
    parser.add_argument("--media", help="folder of the images; default: $MEDIA_DIR, else the table's folder")
    parser.add_argument(
        "--backbone",
        help="efficientnet-b0 to -b7, efficientnet-lite0 to -lite2, a TF-Hub handle, a SavedModel's folder, "
        "a .keras file, or B0's .h5",
    )
    parser.add_argument("--input-size", type=number(32), help="S, where the backbone takes others than its own")
    parser.add_argument("--out", help="folder of the outputs; default: artifacts")
    parser.add_argument("--cache", help="the feature cache; default: OUT/features.h5")
    parser.add_argument("--positive", help="the class name that counts as 1; default: the second by name")


def workspace_of(flags: argparse.Namespace) -> workspace.Workspace:
    """Resolve the shared flags; an empty string, as make passes it, counts as not given."""
    names = ("data", "media", "backbone", "out", "cache", "positive", "input_size", "precision")
    given = {name: getattr(flags, name, None) or None for name in names}
    return workspace.resolve(**given, near=getattr(flags, "group_near", None))


def number(least: int) -> Callable[[str], int]:
    """Return an argparse type: a whole number of at least `least`."""

    def parse(text: str) -> int:
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
        return int(text)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m extract", description="Stage 1: images to features.h5.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    features = verbs.add_parser("features", help="embed every image that the cache does not hold yet")
    add_workspace_flags(features)
    features.add_argument(
        "--batch", type=number(1), help="images a step; default: what suits the engine, fewer of over 224 px"
    )
    features.add_argument("--engine", choices=("auto", *engines.NAMES), default="auto", help="what runs the backbone")
    features.add_argument("--precision", choices=engines.PRECISIONS, help="of its arithmetic; default: float32")
    features.add_argument("--retry", action="store_true", help="try images again that could not be decoded before")
    features.add_argument("--shard", metavar="I/N", help="embed the I-th of N slices, apart from the others; then seal")
    features.add_argument(
        "--cluster", metavar="ADDRESS", help="slices on a Ray cluster: local, or ray://...; then seal"
    )
    features.add_argument("--workers", type=number(1), help="of the cluster; default: one a machine")
    seal = verbs.add_parser("seal", help="join all shards into one cache")
    add_workspace_flags(seal)
    for verb in (features, seal):
        verb.add_argument("--max-bad", type=float, default=0.05, help="quarantined share that makes the exit code 3")
        verb.add_argument("--allow-outside", action="store_true", help="let the table name files outside MEDIA")
    about = {"verify": "check a cache from its bytes up", "info": "say what a cache holds and what made it"}
    for name, what in about.items():
        verb = verbs.add_parser(name, help=what)
        verb.add_argument("--cache", help="the feature cache; default: OUT/features.h5")
        verb.add_argument("--out", help="folder of the outputs; default: artifacts")
        if name == "verify":
            verb.add_argument("--repair", action="store_true", help="if it is damaged, keep the rows that are whole")
    link_tree = verbs.add_parser("link-tree", help="write a table as <type>/<class>/ folders of links to its images")
    link_tree.add_argument("--data", help="label table (CSV); default: the recorded one")
    link_tree.add_argument("--media", help="folder of the images; default: as recorded")
    link_tree.add_argument("--cache", help="feature cache whose recorded splits hold; default: artifacts/features.h5")
    link_tree.add_argument("--out", required=True, help="folder of the tree: new, or written by link-tree before")
    link_tree.add_argument("--allow-outside", action="store_true", help="let the table name files outside MEDIA")
    demo = verbs.add_parser("demo", help="write the demo's images and labels")
    demo.add_argument("--out", help="folder of the demo; default: artifacts/demo")
    return parser


def _features(flags: argparse.Namespace) -> int:
    place = workspace_of(flags)
    from extract import shards

    shard = shards.parse(flags.shard) if flags.shard else None
    config = run.Config(place, flags.engine, flags.batch, flags.max_bad, flags.retry, flags.allow_outside)
    if shard:
        return shards.extract(config, shard)
    if flags.cluster:
        from extract import cluster

        return cluster.extract(config, flags.cluster, flags.workers)
    if (folder := shards.shards_of(place)).exists():
        raise CacheError(
            f"{workspace.shown(folder)} holds shards that were embedded apart",
            rule="What is embedded already is not embedded again",
            then="Run python -m extract seal, or delete that folder",
        )
    return run.extract(config)


def _seal(flags: argparse.Namespace) -> int:
    from extract import shards

    config = run.Config(workspace_of(flags), max_bad=flags.max_bad, allow_outside=flags.allow_outside)
    return shards.seal(config)


def _verify(flags: argparse.Namespace) -> int:
    path = workspace.cache_of(out=flags.out or None, cache=flags.cache or None)
    try:
        found = cache.verify(path)
    except CacheError as error:
        if not flags.repair or not path.is_file():
            raise
        print(f"verify    {error}", flush=True)
        from extract.store import repair

        kept, before = repair.repair(path)
        print(f"verify    {kept:,} of {before:,} rows are whole and were kept; make features embeds the others again")
        found = cache.verify(path)
    print(
        f"verify    {workspace.shown(found.path)}: {len(found):,} rows x {found.dim}, every byte as sealed, "
        f"fingerprint {found.fingerprint[:12]}"
    )
    return DONE


def _info(flags: argparse.Namespace) -> int:
    found = cache.open_cache(workspace.cache_of(out=flags.out or None, cache=flags.cache or None))
    print(
        json.dumps(
            {
                "cache": str(found.path),
                "rows": len(found),
                "dim": found.dim,
                "fingerprint": found.fingerprint,
                "recipe": found.recipe.to_json(),
                "provenance": found.provenance,
                "recorded": workspace.read_record(found.path.parent).get("inputs", {}),
            },
            indent=2,
        )
    )
    return DONE


def _link_tree(flags: argparse.Namespace) -> int:
    from extract import link_tree

    beside = os.path.dirname(os.path.abspath(flags.cache)) if flags.cache else None
    place = workspace.resolve(data=flags.data, media=flags.media, out=beside, cache=flags.cache)
    for line in link_tree.write(place, Path(flags.out).absolute(), allow_outside=flags.allow_outside):
        print(f"link-tree {line}")
    return DONE


def _demo(flags: argparse.Namespace) -> int:
    from extract import demo

    demo.make(Path(flags.out or workspace.DEMO).absolute())
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code (see errors.py)."""
    gc.set_threshold(100_000, 50, 100)  # of a large table's millions of objects none is garbage: a third of the time
    return guard(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    flags = _parser().parse_args(argv)
    verbs = {
        "features": _features,
        "seal": _seal,
        "verify": _verify,
        "info": _info,
        "link-tree": _link_tree,
        "demo": _demo,
    }
    return verbs[flags.verb](flags)


if __name__ == "__main__":
    in_utf8()
    sys.exit(main())
