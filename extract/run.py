"""The stage in time order: scan, plan, embed, seal, report. What an earlier run finished is never embedded again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from extract import embed, flags, workspace
from extract.backbones import backbone, engines
from extract.embed import Bad, Job, Pass, Plan, Setup
from extract.files import manifest, nearest
from extract.files.manifest import QUARANTINE_COLUMNS, Failure, Manifest, Scan
from extract.ground import files, tensorflow
from extract.ground.errors import DONE, TOO_MANY_BAD, InputError
from extract.ground.progress import Progress
from extract.images import decode, header
from extract.recipe import Recipe
from extract.store import cache, repeats
from extract.store.cache import FeatureCache
from extract.store.parts import Parts
from extract.tables import labels, splits
from extract.tables.task import Task
from extract.workspace import Workspace


@dataclass(frozen=True)
class Config:
    """What `make features` was asked to do.

    batch: images a step; None: what suits the engine. apart: this is one slice of several, and all its images may be
    bad. load: what loads the backbone.
    """

    workspace: Workspace
    engine: str = flags.option("what runs the backbone", "auto", choices=("auto", *engines.NAMES))
    batch: int | None = flags.option(
        "images a step; default: what suits the engine, fewer of over 224 px", None, type=flags.number(1)
    )
    max_bad: float = flags.option("quarantined share that makes the exit code 3", 0.05, type=float)
    retry: bool = flags.option("try images again that could not be decoded before", False, action="store_true")
    allow_outside: bool = flags.option("let the table name files outside MEDIA", False, action="store_true")
    apart: bool = False
    load: Callable[[backbone.Source], backbone.Backbone] = backbone.load


@dataclass(frozen=True)
class Report:
    """What a run did."""

    scan: Scan
    labels: labels.Labels
    sealed: FeatureCache
    failures: list[Failure]
    done: Pass
    seconds: float

    @cached_property
    def reasons(self) -> dict[str, int]:
        """How many images are quarantined for each reason."""
        return {reason: sum(failure.reason == reason for failure in self.failures) for reason in header.REASONS}

    def record(self, place: Workspace) -> None:
        """Write its entry in last_run.json."""
        ran = {"ran_on": self.done.how, "shares_of_time": self.done.shares()} if self.done.how else {}
        entry = {
            "status": "done",
            "images": len(self.scan.rows),
            "embedded": self.done.rows,
            "hashed": self.scan.hashed,
            "quarantined": len(self.failures),
            "quarantined_by_reason": self.reasons,
            "rows_in_cache": len(self.sealed),
            "images_per_second": round(self.done.rate, 2),
            **ran,
            "seconds": round(self.seconds, 2),
            "table_digest": self.labels.digest,
            "classes": self.labels.task.classes if self.labels.task else None,
            "notes": self.labels.notes,
            "fingerprint": self.sealed.fingerprint,
            "recipe": self.sealed.recipe.to_json(),
            "provenance": self.sealed.provenance,
        }
        workspace.write_record(place, features=entry)

    def lines(self, place: Workspace) -> Iterator[str]:
        """Yield the lines that are printed."""
        total, done, bad, sealed = len(self.scan.rows), self.done, len(self.failures), self.sealed
        shares = ", ".join(f"{stage} {share:.0%}" for stage, share in done.shares().items())
        speed = f" at {done.rate:.1f} images/s ({shares} of the time)" if done.rows else ""
        yield (
            f"{total:,} images: {done.rows:,} embedded now{speed}, {total - done.rows - bad:,} cached or copies, "
            f"{bad:,} quarantined; {self.scan.hashed:,} files read; {self.seconds:.1f} s"
        )
        if bad:
            listed = ", ".join(f"{reason} {n}" for reason, n in self.reasons.items() if n)
            yield f"quarantined: {listed}; see {workspace.shown(place.quarantine)}"
        yield f"{workspace.shown(sealed.path)}: {len(sealed):,} rows x {sealed.dim}"
        if done.rows or len(sealed) <= repeats.SOON:
            sets = repeats.find(sealed.blocks(), sealed.sha256.tolist())
            yield from repeats.notes(sets, len(sealed), self.scan.manifest())


def extract(config: Config) -> int:
    """Embed every image of a table that the cache does not hold yet; return the exit code.

    Errors: OnepassError. After Ctrl-C, SIGTERM or a kill the same call goes on where it stopped.
    """
    started, place = time.monotonic(), config.workspace
    print(f"features  {place.describe()}", flush=True)
    with files.lock(place.lock, str(place.cache)):
        for folder in (place.out, place.beside_cache, place.parts):
            files.sweep(folder)
        table = manifest.read_table(place.data)
        task = labels.check(table, place.data, place.positive, place.task)  # before hours of embedding
        source = backbone.resolve(place.backbone, place.input_size)
        recipe = backbone.recipe(source, place.precision)
        known, scan = _scan(config, table)
        plan = _plan(config, scan, recipe)
        _record_inputs(place)
        _say_task(table, task, place.positive)
        save, done = partial(_write_manifest, place, known, scan), Pass()
        try:
            if jobs := embed.unseen(plan, scan, save):
                done = embed.run(jobs, plan.known, scan, _set_up(config, source, recipe, plan), save)
            failures = _quarantine(place, scan, plan.bad | done.bad, recipe)
            if config.apart and len(failures) == len(scan.rows):
                return _nothing_apart(place, failures)
            _refuse_all_bad(place, table, scan, failures)
            recorded = _record_labels(place, (table, task), scan, failures)
            sealed = _seal(place, source)
        except BaseException as error:
            workspace.write_record(place, features={"status": "stopped", "why": str(error) or type(error).__name__})
            raise
        if near := "" if config.apart else _nearest(place, table, failures):
            print(f"features  {near}")
        return _finish(config, Report(scan, recorded, sealed, failures, done, time.monotonic() - started))


def _scan(config: Config, table: Any) -> tuple[Manifest, Scan]:
    """Look for the table's files; return what was known of them, and what is known now.

    Errors: InputError where this run would write over one of them.
    """
    place = config.workspace
    known = Manifest.read(place.manifest)
    progress = Progress(len(table), "looking")
    scan = manifest.look(table, place.media, known, allow_outside=config.allow_outside, progress=progress.add)
    manifest.refuse_other_images(known, scan)
    progress.close()
    if not config.apart:
        _refuse_all_bad(place, table, scan, list(scan.failures.values()))
    written = place.records()
    files.refuse_inputs(written, scan.paths(files.inodes(written)), then="Give another OUT or CACHE")
    return known, scan


def _write_manifest(place: Workspace, known: Manifest, scan: Scan) -> None:
    if not scan.as_known:
        manifest.merge(known, scan.manifest()).write(place.manifest)


def _refuse_all_bad(place: Workspace, table: Any, scan: Scan, failures: list[Failure]) -> None:
    if len(failures) < len(scan.rows):
        return
    first, near = failures[0], _nearest(place, table, failures)
    what = f"None of the {len(scan.rows):,} images could be used; the first: objectId {first.object_id!r}, "
    what += f"{first.reason}, {first.detail}"
    rule = f"Files are at their `path`, or at object/ab/cd/<id>, ab/cd/<id> or <id> under MEDIA, here {place.media}"
    then = "Give MEDIA=path/to/media"
    if all(failure.reason == "undecodable" for failure in failures):
        rule, then = "", "Open that file with another program: it may not be an image, or not a whole one"
    elif near:
        what, then = f"{what}; {near}", "Correct objectId or `path` in the table, or give another MEDIA"
    raise InputError("no-image-found", what, rule=rule, then=then)


def _nearest(place: Workspace, table: Any, failures: list[Failure]) -> str:
    """Name the file that is nearest to a missing one, and how many are like that; see `nearest.sentence`."""
    gone = {failure.object_id for failure in failures if failure.reason == "missing" and not failure.path}
    return nearest.sentence(manifest.paths_or_ids(table[table["objectId"].isin(gone)]), place.media) if gone else ""


def _record_inputs(place: Workspace) -> None:
    """Remember what was given, now that it is known to be usable."""
    workspace.write_record(place, features={"status": "running"})
    if not workspace.read_record(place.beside_cache)["inputs"]:  # a second OUT finds MEDIA and BACKBONE there
        workspace.write_record(replace(place, out=place.beside_cache))


def _say_task(table: Any, task: Task | None, positive: str | None) -> None:
    if task:
        first, *more = labels.described(task, positive)
        unlabelled = int((table["value"] == "").sum())
        print(f"labels    {first}; {unlabelled:,} of {len(table):,} unlabelled", flush=True)
        for note in more:
            print(f"labels    {note}", flush=True)


def _record_labels(
    place: Workspace, asked: tuple[Any, Task | None], scan: Scan, failures: list[Failure]
) -> labels.Labels:
    """Record labels and splits, and print what is noteworthy about them."""
    recorded = splits.read(*place.all_splits)
    unusable = {failure.sha256 for failure in failures}
    known = labels.Known(scan.manifest().digests(), recorded.made, unusable)
    said = labels.read(asked[0], known, place.data, asked[1])
    changed = recorded.changes(said.rows())
    recorded.write(said.rows())
    files.write_csv(place.conflicts, labels.CONFLICT_COLUMNS, said.conflicts)
    for note in [*changed, *said.notes]:
        print(f"labels    {note}")
    return said


def _plan(config: Config, scan: Scan, recipe: Recipe) -> Plan:
    """Digests minus cached minus undecodable. Errors: CacheError when cache or parts hold another recipe."""
    place = config.workspace
    sources = _sources(place)
    for found in sources:
        where = f"{found.path}, made with {found.provenance.get('backbone')},"
        cache.refuse_other_recipe(found.recipe, recipe, where=where)
    bad = {} if config.retry else undecodable(place, recipe)
    known = frozenset(bad).union(*(found.sha256.tolist() for found in sources))
    jobs: list[Job] = []
    by_digest: dict[str, Job] = {}
    for number, row in enumerate(scan.rows):
        if number in scan.unread:
            jobs.append(Job([row.path], row=row, number=number))
        elif row.sha256 in by_digest:
            by_digest[row.sha256].paths.append(row.path)
        elif row.sha256 and row.sha256 not in known:
            by_digest[row.sha256] = Job([row.path], row.sha256)
            jobs.append(by_digest[row.sha256])
    return Plan(jobs, sources, bad, known)


def undecodable(place: Workspace, recipe: Recipe) -> Bad:
    """Map the digest of each image that this version could not decode for this recipe to (reason, detail)."""
    return {
        row["sha256"]: (row["reason"], row["detail"])
        for row in files.read_csv(place.quarantine, QUARANTINE_COLUMNS)
        if row["reason"] == "undecodable" and row["sha256"] and row["decoder"] == _decoder(recipe)
    }


def _decoder(recipe: Recipe) -> str:
    return f"{decode.decoder_version()} recipe {recipe.fingerprint[:12]}"


def _sources(place: Workspace) -> list[FeatureCache]:
    """Open the cache, where there is one, and the parts, in the order in which they are sealed."""
    old = [cache.open_cache(place.cache)] if place.cache.exists() else []
    return old + cache.open_parts(place.parts)


def _set_up(config: Config, source: backbone.Source, recipe: Recipe, plan: Plan) -> Setup:
    """Load the backbone. Errors: CacheError where its features are not those of the cache and the parts."""
    print(f"backbone  loading {source.name}", flush=True)
    engines.share_cores()
    network, engine, precision = config.load(source), engines.choose(config.engine), recipe.precision
    workers = engines.workers(engine)
    network.run_on(engine, precision, config.batch)
    probe = backbone.probe(network)
    how = f"{engine}, {precision}, {workers} threads on a {tensorflow.device().upper()}"
    print(f"backbone  {how}, {network.step} image{'s' * (network.step > 1)} at a time", flush=True)
    for found in plan.sources:
        cache.refuse_drift(probe, found.probe, where=str(found.path))
    return Setup(network, Parts(config.workspace.parts, recipe, source.name, probe), workers, how)


def _seal(place: Workspace, source: backbone.Source) -> FeatureCache:
    """Join the parts, if there are any, into the cache and delete them."""
    sources = _sources(place)
    if sources[-1].path == place.cache:
        return sources[-1]
    sealed = cache.seal(place.cache, sources, cache.provenance(backbone=source.name))
    for part in sources:
        if part.path != place.cache:
            part.path.unlink()
    with suppress(OSError):  # a file that is not ours stays there
        place.parts.rmdir()
    return sealed


def _quarantine(place: Workspace, scan: Scan, bad: Bad, recipe: Recipe) -> list[Failure]:
    """Write this table's failures and return them."""
    failures = list(scan.failures.values())
    failures += [Failure(*row[:2], *bad[row.sha256], row.sha256) for row in scan.rows if row.sha256 in bad]
    rows = [(f.object_id, f.path, f.sha256, f.reason, f.detail, _decoder(recipe)) for f in failures]
    update_quarantine(place.quarantine, {row.object_id for row in scan.rows}, rows)
    return failures


def update_quarantine(path: Path, ids: set[str], rows: Sequence[Sequence[str]]) -> None:
    """Replace the rows of these objects in quarantine.csv; those that only other tables name are kept."""
    kept = [row for row in files.read_rows(path, QUARANTINE_COLUMNS) if row[0] not in ids]
    files.write_csv(path, QUARANTINE_COLUMNS, [*kept, *rows])


def _finish(config: Config, report: Report) -> int:
    """Record and print what was done; the exit code says whether too many images were quarantined."""
    report.record(config.workspace)
    for line in report.lines(config.workspace):
        print(f"features  {line}")
    share = len(report.failures) / len(report.scan.rows)
    if share > config.max_bad:
        print(f"features  {share:.1%} of the images are quarantined, more than --max-bad {config.max_bad:.0%}: exit 3")
        return TOO_MANY_BAD
    return DONE


def _nothing_apart(place: Workspace, failures: list[Failure]) -> int:
    print(f"features  all {len(failures):,} images of this slice are quarantined", flush=True)
    workspace.write_record(place, features={"status": "done", "images": len(failures), "quarantined": len(failures)})
    return DONE
