"""`python -m extract VERB`: from flags to a config to a run."""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

from extract import __version__, demo, flags, link_tree, run, shards, workspace
from extract.ground.errors import DONE, CacheError, guard, in_utf8
from extract.store import cache, repair
from extract.workspace import Workspace


def workspace_of(args: argparse.Namespace) -> Workspace:
    """Return the workspace that the flags mean; if it is the demo's, write its data first."""
    return demo.ensure(workspace.resolve(**flags.given(args, Workspace)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m extract", description="Stage 1: images to features.h5.")
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    features = verbs.add_parser("features", help="embed every image that the cache does not hold yet")
    flags.add(features, Workspace, but=["near"])
    flags.add(features, run.Config)
    features.add_argument("--shard", metavar="I/N", help="embed the I-th of N slices, apart from the others; then seal")
    features.add_argument("--cluster", metavar="ADDRESS", help="embed slices on Ray: local, or ray://...; then seal")
    features.add_argument("--workers", type=flags.number(1), help="Ray workers; default: one per machine")
    seal = verbs.add_parser("seal", help="join all shards into one cache")
    flags.add(seal, Workspace, but=["near", "precision"])
    flags.add(seal, run.Config, only=["max_bad", "allow_outside"])
    verify = verbs.add_parser("verify", help="check a cache from its bytes up")
    verify.add_argument("--repair", action="store_true", help="if it is damaged, keep the undamaged rows")
    for verb in (verify, verbs.add_parser("info", help="say what a cache holds and what made it")):
        flags.add(verb, Workspace, only=["cache", "out"])
    link_tree = verbs.add_parser("link-tree", help="write a table as <type>/<class>/ folders of links to its images")
    link_tree.add_argument("--data", help="label table (CSV); default: the recorded one")
    link_tree.add_argument("--media", help="folder of the images; default: as recorded")
    link_tree.add_argument("--cache", help="feature cache whose recorded splits hold; default: artifacts/features.h5")
    link_tree.add_argument("--out", required=True, help="folder of the tree: new, or written by link-tree before")
    flags.add(link_tree, run.Config, only=["allow_outside"])
    digits = verbs.add_parser("demo", help="write the demo's images and labels")
    digits.add_argument("--out", help="folder of the demo; default: artifacts/demo")
    digits.add_argument("--task", choices=("binary", "multiclass"), help="odd against even (default), or ten classes")
    return parser


def _features(args: argparse.Namespace) -> int:
    place = workspace_of(args)
    shard = shards.parse(args.shard) if args.shard else None
    config = run.Config(place, **flags.given(args, run.Config))
    if shard:
        return shards.extract(config, shard)
    if args.cluster:
        return shards.extract_all(config, args.cluster, args.workers)
    if place.shards.exists():
        raise CacheError(
            "shards-not-merged",
            f"{workspace.shown(place.shards)} holds shards that are not sealed yet",
            then="Run python -m extract seal, or delete that folder",
        )
    return run.extract(config)


def _seal(args: argparse.Namespace) -> int:
    return shards.seal(run.Config(workspace_of(args), **flags.given(args, run.Config)))


def _verify(args: argparse.Namespace) -> int:
    path = workspace.cache_of(out=args.out or None, cache=args.cache or None)
    try:
        found = cache.verify(path)
    except CacheError as error:
        if not args.repair or not path.is_file():
            raise
        print(f"verify    {error}", flush=True)
        kept, before = repair.repair(path)
        print(f"verify    kept {kept:,} of {before:,} rows, the undamaged ones; make features embeds the others again")
        found = cache.verify(path)
    print(
        f"verify    {workspace.shown(found.path)}: {len(found):,} rows x {found.dim}, every byte as sealed, "
        f"fingerprint {found.fingerprint[:12]}"
    )
    return DONE


def _info(args: argparse.Namespace) -> int:
    found = cache.open_cache(workspace.cache_of(out=args.out or None, cache=args.cache or None))
    facts = {
        "cache": str(found.path),
        "rows": len(found),
        "dim": found.dim,
        "fingerprint": found.fingerprint,
        "recipe": found.recipe.to_json(),
        "provenance": found.provenance,
        "recorded": workspace.read_record(found.path.parent)["inputs"],
    }
    print(json.dumps(facts, indent=2))
    return DONE


def _link_tree(args: argparse.Namespace) -> int:
    beside = os.path.dirname(os.path.abspath(args.cache)) if args.cache else None
    place = demo.ensure(workspace.resolve(data=args.data, media=args.media, out=beside, cache=args.cache))
    for line in link_tree.write(place, Path(args.out).absolute(), allow_outside=bool(args.allow_outside)):
        print(f"link-tree {line}")
    return DONE


def _demo(args: argparse.Namespace) -> int:
    demo.make(replace(workspace.demo(args.out or workspace.DEMO), task=args.task))
    return DONE


def main(argv: list[str] | None = None) -> int:
    """Run one verb and return its exit code (see errors.py)."""
    gc.set_threshold(100_000, 50, 100)  # looking for garbage in a large table's objects took a third of the time
    return guard(lambda: _run(argv))


def _run(argv: list[str] | None) -> int:
    args = _parser().parse_args(argv)
    verbs = {
        "features": _features,
        "seal": _seal,
        "verify": _verify,
        "info": _info,
        "link-tree": _link_tree,
        "demo": _demo,
    }
    return verbs[args.verb](args)


if __name__ == "__main__":
    in_utf8()
    sys.exit(main())
