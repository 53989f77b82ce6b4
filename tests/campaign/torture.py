"""The fault campaign: `python -m tests.campaign.torture`, or `make torture`; docs/reliability.md has what it found.

Each part does harm on purpose, a number of times, seeded, and counts what came of it: a fault is survived when the next
run ends as if nothing had happened. The fast tests run the same parts with small numbers.

The verbs are killed as processes that are forked from this one after the imports, so that a hundred kills take minutes.
This process itself computes nothing with TensorFlow: a process that has must not be forked.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from extract import run
from extract.__main__ import main as extract_main
from extract.ground import files
from extract.ground.errors import CacheError
from extract.images import decode, header
from extract.store import cache, parts, repair
from heads.__main__ import main as heads_main
from heads.ship import bundle
from tests.campaign.odd_files import odd_files
from tests.support import synthetic
from tests.support.album import Album, encoded, picture

PATIENCE = 120.0  # seconds until a process counts as hanging
PICTURES = 48
PARTS = ("damage", "readers", "features", "features again", "seal", "export", "head", "images")
NEW_NAMESPACE = 0x00020000  # CLONE_NEWNS of sched.h; os.unshare comes with Python 3.12
CAPABILITIES = 0x20080522  # the version of linux/capability.h whose sets are 64 bits


@dataclass
class Tally:
    """What a part of the campaign came to."""

    name: str
    faults: int = 0
    survived: int = 0
    lost: int = 0
    wrong: int = 0
    crashes: int = 0
    hangs: int = 0
    peak: float = 0.0
    notes: list[str] = field(default_factory=list)

    def row(self) -> str:
        cells = (self.name, self.faults, self.survived, self.lost, self.wrong, self.crashes, self.hangs)
        return (
            "| "
            + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
            + f" | {self.peak:.2f} GB |"
        )

    @property
    def clean(self) -> bool:
        return self.survived == self.faults > 0 and not (self.lost or self.wrong or self.crashes or self.hangs)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"  {self.name}: {text}", flush=True)


HEADER = (
    "| part | faults | survived | rows lost | wrong features | crashes | hangs | peak memory |\n" + "| --- " * 8 + "|"
)


# ---- processes


@dataclass
class Child:
    """A forked process: its output, and what it left."""

    pid: int
    output: Path

    def wait(self, seconds: float) -> int | None:
        """Return the exit code (negative: the signal), or None where it still runs after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.peak = usage.ru_maxrss / 1e6
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                return None
            time.sleep(0.002)

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def said(self) -> str:
        return self.output.read_text(errors="replace")


def fork(work: Callable[[], int], output: Path) -> Child:
    """Run `work` in a process of its own, whose output goes to a file; its result is the exit code."""
    sys.stdout.flush(), sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, output)
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        where = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(where, 1), os.dup2(where, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def done(work: Callable[[], int], folder: Path, tally: Tally | None = None) -> int:
    """Run `work` to its end; return the exit code, and count what must not be."""
    child = fork(work, folder / ".output")
    code = child.wait(PATIENCE)
    if code is None:
        child.kill()
        child.wait(10)
    if tally:
        tally.peak = max(tally.peak, child.peak if code is not None else 0)
        tally.hangs += code is None
        if code is not None and (code < 0 or "Traceback" in child.said()):
            tally.crashes += 1
            tally.note(f"exit {code}: {child.said()[-1500:]}")
    elif code:
        raise RuntimeError(f"exit {code}: {child.said()[-3000:]}")
    return -1 if code is None else code


def preload() -> None:
    """Import what the verbs import, and start no thread of TensorFlow's."""
    import tests.support.preload  # noqa: F401


# ---- the verbs that are killed


@dataclass
class Verb:
    """Something to kill, in a copy of `template`.

    check: whether a folder is as after an uninterrupted run. midway: raises where a killed run left half of something.
    """

    name: str
    template: Path
    work: Callable[[Path], int]
    check: Callable[[Path, Tally], bool]
    midway: Callable[[Path], None] = lambda folder: None


def extraction(folder: Path, backbone: Path, only: Sequence[str]) -> tuple[Verb, ...]:
    """Return the verbs features, seal (of three shards) and export, on 48 pictures and a tiny backbone.

    features comes twice: from nothing, and over a finished OUT with files that changed since, copies and bad ones.
    only: the parts that will be run; what others start from is left out.
    """
    album, grown = Album(folder / "album").fill(PICTURES), Album(folder / "grown").fill(PICTURES)
    flags = ["--backbone", str(backbone), "--max-bad=1"]
    given = ["--data", str(album.table), "--media", str(album.media), *flags]
    given_grown = ["--data", str(grown.table), "--media", str(grown.media), *flags]

    def features(out: Path, given: list[str] = given) -> int:
        parts.PART_ROWS = 8
        embed = run.backbone.Backbone.embed

        def slowly(self: run.backbone.Backbone, pixels: np.ndarray) -> np.ndarray:
            time.sleep(0.03)
            return embed(self, pixels)

        run.backbone.Backbone.embed = slowly  # type: ignore[method-assign]
        return extract_main(["features", *given, "--out", str(out)])

    whole, before, after = folder / "whole", folder / "before", folder / "after"
    done(lambda: extract_main(["features", *given, "--out", str(whole)]), folder)
    if "features again" in only:
        done(lambda: extract_main(["features", *given_grown, "--out", str(before)]), folder)
        for number, (name, *_) in enumerate(grown.rows[:24]):
            (grown.media / "object" / name[:2] / name[2:4] / name).write_bytes(encoded(picture(500 + number)))
            if number % 4 == 0:
                grown.add(f"copy{number}", encoded(picture(500 + number)))
        grown.add("broken", encoded(picture(1))[:300])
        grown.add("missing", None)
        grown.write()
        shutil.copytree(before, after)
        done(lambda: extract_main(["features", *given_grown, "--out", str(after)]), folder)

    def check(out: Path, tally: Tally, whole: Path = whole) -> bool:
        return (
            same_rows(out, rows_of(whole / "features.h5"), tally) & same_tables(out, whole, tally) & clean(out, tally)
        )

    def parts_are_whole(out: Path) -> None:
        for part in cache.open_parts(out / "features.parts"):
            cache.check_bytes(part.path)

    apart = folder / "apart"
    for i in (1, 2, 3) if "seal" in only else ():
        done(lambda i=i: extract_main(["features", *given, "--out", str(apart), "--shard", f"{i}/3"]), folder)
    if "export" in only:
        done(lambda: heads_main(["train", "--out", str(whole), "--head", "logistic"]), folder)

    def exported(out: Path, tally: Tally) -> bool:
        parity = out / "exports" / "logistic" / "parity.json"
        tally.lost += not parity.exists()
        return parity.exists() & clean(out, tally)

    (folder / "nothing").mkdir()
    return (
        Verb("features", folder / "nothing", features, check, parts_are_whole),
        Verb(
            "features again",
            before,
            lambda out: features(out, given_grown),
            lambda out, tally: check(out, tally, after),
            parts_are_whole,
        ),
        Verb("seal", apart, lambda out: extract_main(["seal", *given, "--out", str(out)]), check),
        Verb(
            "export",
            whole,
            lambda out: heads_main(["export", "--out", str(out), "--head", "logistic", "--parity-images", "4"]),
            exported,
        ),
    )


def training(folder: Path) -> Verb:
    """Return the verb `train` of two heads on 600 made-up rows."""
    synthetic.workspace(folder / "cached", 600, 32)
    (folder / "cached" / ".output").unlink(missing_ok=True)

    def train(out: Path) -> int:
        return heads_main(["train", "--out", str(out), "--head", "sigmoid,logistic"])

    whole = folder / "trained"
    shutil.copytree(folder / "cached", whole)
    done(lambda: train(whole), folder)
    expected = {name: bundle.load(whole / "heads" / name).model for name in ("sigmoid", "logistic")}

    def check(out: Path, tally: Tally) -> bool:
        for name, layers in expected.items():
            found = bundle.load(out / "heads" / name).model
            same = all(np.allclose(a.kernel, b.kernel, atol=1e-4) for a, b in zip(layers, found, strict=True))
            tally.wrong += not same
        return clean(out, tally)

    def published_is_whole(out: Path) -> None:
        for name in bundle.trained(out / "heads"):
            bundle.load(out / "heads" / name)

    return Verb("head", folder / "cached", train, check, published_is_whole)


def rows_of(path: Path) -> dict[str, np.ndarray]:
    """Return a cache's rows by digest, after checking every byte."""
    found = cache.verify(path)
    return dict(zip(found.sha256.tolist(), found.read(np.arange(len(found))), strict=True))


def same_rows(out: Path, expected: dict[str, np.ndarray], tally: Tally) -> bool:
    found = rows_of(out / "features.h5")
    tally.lost += len(expected.keys() - found.keys())
    wrong = [key for key in found if key not in expected or not np.allclose(found[key], expected[key], atol=1e-5)]
    tally.wrong += len(wrong)
    return found.keys() == expected.keys() and not wrong


def same_tables(out: Path, whole: Path, tally: Tally) -> bool:
    """Whether digests, splits and quarantine are as after an uninterrupted run."""
    for name in ("manifest.csv", "splits.csv", "quarantine.csv", "conflicts.csv"):
        if sorted((out / name).read_text().splitlines()) != sorted((whole / name).read_text().splitlines()):
            tally.note(f"another {name}")
            return False
    return True


def clean(out: Path, tally: Tally) -> bool:
    """Whether nothing of ours is left that should not be: temporary files, locks, parts, shards."""
    left = [
        str(path.relative_to(out))
        for path in out.rglob("*")
        if files.PARTIAL.fullmatch(path.name) or path.name.endswith((".lock", ".parts", ".shards"))
    ]
    if left:
        tally.note(f"left behind: {left}")
    return not left


def kills(verb: Verb, n: int, numbers: list[int], seed: int, folder: Path) -> Tally:
    """Kill a verb at a random moment, n times, each in a folder of its own; then run it to its end."""
    names = {signal.SIGKILL: "SIGKILL", signal.SIGTERM: "SIGTERM", signal.SIGINT: "Ctrl-C"}
    tally, rng = Tally(f"{verb.name}, {' and '.join(names[number] for number in numbers)}"), random.Random(seed)
    out = folder / "out"

    def fresh() -> None:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(verb.template, out)

    fresh()
    started = time.monotonic()
    done(lambda: verb.work(out), folder)
    lasts = time.monotonic() - started
    for trial in range(4 * n):
        if tally.faults == n:
            break
        fresh()
        child = fork(lambda: verb.work(out), folder / ".output")
        code = child.wait(rng.uniform(0, lasts))
        if code is not None:
            continue  # it was faster than the kill: no fault
        tally.faults += 1
        child.kill(numbers[trial % len(numbers)])
        code = child.wait(PATIENCE)
        if code is None:
            tally.hangs += 1
            child.kill()
            child.wait(10)
            continue
        polite = numbers[trial % len(numbers)] != signal.SIGKILL
        if polite and "Traceback" in child.said():
            tally.note(f"a traceback: {child.said()[-1500:]}")
            tally.crashes += 1
        tally.survived += as_ever(verb, out, folder, tally)
    return tally


def as_ever(verb: Verb, out: Path, folder: Path, tally: Tally) -> bool:
    """Run a verb to its end after a fault; say whether all is as if there had been none."""
    crashes = tally.crashes
    try:
        verb.midway(out)
        again = done(lambda: verb.work(out), folder, tally)
        good = again == 0 and tally.crashes == crashes and verb.check(out, tally)
    except Exception as error:
        tally.note(repr(error))
        good = False
    if not good:
        said = (folder / ".output").read_text(errors="replace")
        tally.note(f"fault {tally.faults}: not as if nothing had happened; {said[-600:]}")
    return good


# ---- disks


def refused(work: Callable[[], int], folder: Path, tally: Tally) -> bool | None:
    """Run `work`, which must fail with exit code 1 and without a traceback; None where it did not fail."""
    crashes = tally.crashes
    code = done(work, folder, tally)
    if code == 0:
        return None
    tally.faults += 1
    good = code == 1 and tally.crashes == crashes
    if not good:
        tally.note(f"exit {code}: {(folder / '.output').read_text(errors='replace')[-600:]}")
    return good


def full_disks(verb: Verb, n: int, seed: int, folder: Path) -> Tally:
    """Let no file grow beyond a random size (RLIMIT_FSIZE), so that a write fails; then run without the limit."""
    tally, rng, out = Tally(f"{verb.name}, disk full"), random.Random(seed), folder / "out"

    def limited(limit: int) -> int:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        return verb.work(out)

    for _ in range(4 * n):
        if tally.faults == n:
            break
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(verb.template, out)
        limit = int(10 ** rng.uniform(3.5, 5))  # the process must still be able to say what is wrong, into a file
        if (good := refused(lambda limit=limit: limited(limit), folder, tally)) is not None:
            tally.survived += as_ever(verb, out, folder, tally) and good
    return tally


def may_mount() -> bool:
    """Put this process where its mounts are its own; say whether it may mount at all."""
    apart = ctypes.CDLL(None).unshare(NEW_NAMESPACE) == 0
    return apart and subprocess.run(["mount", "--make-rprivate", "/"], capture_output=True).returncode == 0


@contextlib.contextmanager
def disk(path: Path, template: Path, room: int) -> Iterator[Callable[[str], None]]:
    """Mount a file system in memory with a copy of `template` and `room` bytes left; yield what mounts it otherwise."""
    size = sum(4096 * -(-file.stat().st_size // 4096) for file in template.rglob("*"))
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size + room}", "onepass", str(path)], check=True)
    try:
        shutil.copytree(template, path, dirs_exist_ok=True)
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(path)], check=True)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def small_disks(verb: Verb, n: int, seed: int, folder: Path) -> Tally:
    """Run a verb on a file system that is too small (ENOSPC), then to its end on the same with room."""
    tally, rng, out = Tally(f"{verb.name}, file system too small"), random.Random(seed), folder / "out"
    for _ in range(4 * n):
        if tally.faults == n:
            break
        with disk(out, verb.template, int(10 ** rng.uniform(4, 6))) as remount:
            if (good := refused(lambda: verb.work(out), folder, tally)) is not None:
                remount("size=1g")
                tally.survived += as_ever(verb, out, folder, tally) and good
    return tally


def not_ours(verb: Verb, mounts: bool, folder: Path) -> Tally:
    """Run a verb on an OUT that may not be written to; then where it may.

    Once the file system is read-only, where this process may mount; once the mode of the folders does not allow it.
    """
    tally, out = Tally(f"{verb.name}, OUT not writable"), folder / "out"

    def without_rights() -> int:
        caps, none = (ctypes.c_uint32 * 2)(CAPABILITIES), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset(caps, none)  # root is else stopped by no mode
        return verb.work(out)

    def refuses(work: Callable[[], int]) -> bool:
        before = bytes_of(out)
        good = refused(work, folder, tally)
        if good is None:
            tally.faults += 1
        if not good or bytes_of(out) != before:
            tally.note("it was not refused, or it changed something")
            return False
        return True

    if mounts:
        with disk(out, verb.template, 1_000_000_000) as remount:
            remount("ro")
            good = refuses(lambda: verb.work(out))
            remount("rw")
            tally.survived += as_ever(verb, out, folder, tally) and good
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(verb.template, out)
    folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
    for path in folders:
        path.chmod(0o555)
    good = refuses(without_rights)
    for path in folders:
        path.chmod(0o755)
    tally.survived += as_ever(verb, out, folder, tally) and good
    return tally


def bytes_of(folder: Path) -> dict[Path, bytes]:
    """Return all that a folder holds."""
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def damaged_caches(n: int, seed: int, folder: Path) -> Tally:
    """Flip a bit, zero a stretch or cut the file short, anywhere: refused, then repaired without one wrong row."""
    tally, rng = Tally("a cache flipped, zeroed or cut short"), np.random.default_rng(seed)
    X = rng.normal(size=(5000, 24)).astype(np.float32)
    keys = [f"{i:064x}" for i in range(len(X))]
    probe = np.ones((4, 24), np.float32)
    path = folder / "features.h5"
    blocks = [(np.array(keys[at : at + 1000], "S64"), X[at : at + 1000]) for at in range(0, len(X), 1000)]
    cache.write(path, synthetic.RECIPE, {}, probe, blocks, len(X))
    data, kept_rows, beyond = path.read_bytes(), 0, 0
    for trial in range(n):
        harmed, at = bytearray(data), int(rng.integers(len(data) if trial % 2 else 12_000))
        if trial % 10 == 9:
            del harmed[at:]
        elif trial % 10 == 8:
            harmed[at : at + 512] = bytes(len(harmed[at : at + 512]))
        else:
            harmed[at] ^= 1 << int(rng.integers(8))
        if harmed == data:
            continue
        tally.faults += 1
        path.write_bytes(harmed)
        try:
            cache.verify(path)
            tally.note(f"trial {trial} at {at}: not noticed")
            continue
        except CacheError:
            pass
        except Exception as error:
            tally.crashes += 1
            tally.note(f"trial {trial} at {at}: verify: {error!r}")
            continue
        try:
            kept, _ = repair.repair(path)
            found = cache.verify(path)
            rows = found.read(np.arange(kept))
            wrong = sum(
                not np.array_equal(X[int(key, 16)], row) if int(key, 16) < len(X) else True
                for key, row in zip(found.sha256.tolist(), rows, strict=True)
            )
            kept_rows += kept
        except CacheError:
            beyond, wrong = beyond + 1, 0
            if path.read_bytes() != harmed:
                tally.note(f"trial {trial} at {at}: given up, and not left as it was")
                wrong = 1
        except Exception as error:
            tally.crashes += 1
            tally.note(f"trial {trial} at {at}: repair: {error!r}")
            continue
        tally.wrong += wrong
        tally.survived += not wrong
    repaired = tally.faults - beyond
    tally.note(f"{repaired} repaired with {kept_rows / max(repaired, 1) / len(X):.1%} of their rows, {beyond} refused")
    tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return tally


# ---- images


def mutated(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Return a file's bytes with one to three harms."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        if not out:
            break
        at, kind = int(rng.integers(len(out))), int(rng.integers(8))
        length = int(rng.integers(1, 64))
        if kind <= 1:
            for _ in range(int(rng.integers(1, 12))):
                out[int(rng.integers(len(out)))] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del out[at:]
        elif kind == 3:
            out[at : at + length] = bytes(length)
        elif kind == 4:
            out[at:at] = rng.bytes(length)
        elif kind == 5:
            out[at : at + 4] = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\1", b"\x80\0\0\0")[
                int(rng.integers(4))
            ]
        elif kind == 6:
            out[at:] = other[int(rng.integers(max(1, len(other)))) :]
        else:
            del out[at : at + length]
    return bytes(out)


def fuzz(n: int, seed: int, folder: Path) -> Tally:
    """Decode mutated files in a child with limits on memory and time: pixels or a reason, never anything else.

    Wrong: the same bytes gave other pixels the second time. A child that dies or hangs is counted and replaced.
    """
    tally, seeds = Tally("images, mutated bytes decoded"), [odd.data for odd in odd_files() if len(odd.data) < 200_000]
    at = 0
    reasons = {"embedded": 0, "undecodable": 0}

    def work(first: int, pipe: int) -> int:
        decode.from_bytes(encoded(picture(1)), 32)  # the graph, before the limit
        status = Path("/proc/self/statm").read_text().split()
        most = int(status[0]) * os.sysconf("SC_PAGESIZE") + 3_000_000_000
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        for number in range(first, n):
            rng = np.random.default_rng((seed, number))
            data = mutated(seeds[int(rng.integers(len(seeds)))], seeds[int(rng.integers(len(seeds)))], rng)
            (folder / "now.bin").write_bytes(data)
            told = b"e"
            try:
                pixels = decode.from_bytes(data, 32)
                if pixels.shape != (32, 32, 3) or (number % 10 == 0 and (decode.from_bytes(data, 32) != pixels).any()):
                    told = b"w"
            except header.BadImage as error:
                told = b"u" if error.reason == "undecodable" and error.detail else b"w"
            except BaseException:
                traceback.print_exc()
                told = b"x"
            os.write(pipe, told)
        return 0

    while at < n:
        read, write = os.pipe()
        child = fork(lambda write=write, at=at: work(at, write), folder / ".output")
        os.close(write)
        os.set_blocking(read, False)
        waited = time.monotonic()
        while at < n:
            try:
                told = os.read(read, 4096)
            except BlockingIOError:
                if time.monotonic() - waited > PATIENCE:
                    break
                time.sleep(0.01)
                continue
            if not told:
                break
            waited = time.monotonic()
            at += len(told)
            tally.faults += len(told)
            tally.survived += told.count(b"e") + told.count(b"u")
            reasons["embedded"] += told.count(b"e")
            reasons["undecodable"] += told.count(b"u")
            tally.wrong += told.count(b"w")
            tally.crashes += told.count(b"x")
        os.close(read)
        if at < n:
            hangs = child.wait(0.5) is None
            tally.hangs, tally.crashes, tally.faults = (
                tally.hangs + hangs,
                tally.crashes + (not hangs),
                tally.faults + 1,
            )
            shutil.copy(folder / "now.bin", folder / f"killer-{at}.bin")
            tally.note(f"number {at}: {'hangs' if hangs else 'died'}; {child.said()[-500:]}")
            at += 1
        child.kill()
        child.wait(10)
        tally.peak = max(tally.peak, getattr(child, "peak", 0))
    tally.note(f"{reasons['embedded']:,} embedded, {reasons['undecodable']:,} quarantined as undecodable")
    return tally


# ---- two at once


def readers(seconds: float, folder: Path) -> Tally:
    """Read a cache while another process seals it anew all the time: one cache or the other, never a mixture."""
    tally, path = Tally("reads while the cache is sealed anew"), folder / "features.h5"
    n = 3000

    def write(generation: int) -> None:
        order = np.random.default_rng(generation).permutation(n)
        X = np.repeat((order + 10_000 * (generation % 100)).astype(np.float32)[:, None], 16, axis=1)
        keys = np.array([f"{i:064x}" for i in order], "S64")
        cache.write(path, synthetic.RECIPE, {}, np.ones((4, 16), np.float32), [(keys, X)], n)

    def writing() -> int:
        for generation in range(1, 1_000_000):
            write(generation)
        return 0

    write(0)
    child = fork(writing, folder / ".output")
    try:
        deadline, refused = time.monotonic() + seconds, 0
        while time.monotonic() < deadline:
            tally.faults += 1
            try:
                found = cache.open_cache(path)
                time.sleep(0.003 * (tally.faults % 3))
                rows = found.read(np.arange(n))
                ids = np.array([int(key, 16) for key in found.sha256.tolist()])
                generations = (rows[:, 0] - ids) / 10_000
                tally.wrong += int((generations != generations[0]).sum())
                tally.survived += bool((generations == generations[0]).all())
            except CacheError as error:
                refused += "sealed anew" in str(error)
                tally.survived += "sealed anew" in str(error)
    finally:
        child.kill()
        child.wait(10)
    tally.note(f"{refused} of {tally.faults} were told that it was sealed anew meanwhile")
    tally.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return tally


# ---- the whole


def campaign(flags: argparse.Namespace, folder: Path) -> Iterator[Tally]:
    """Run the parts in turn."""
    harms = {part: folder / part for part in ("verbs", "kills", "disk", "damage", "fuzz", "readers")}
    for path in harms.values():
        path.mkdir()
    if "damage" in flags.only:
        yield damaged_caches(flags.damages, flags.seed, harms["damage"])
    if "readers" in flags.only:
        yield readers(flags.seconds, harms["readers"])
    preload()
    backbone = harms["verbs"] / "tiny.keras"
    done(lambda: save_tiny(backbone), folder)
    verbs = [verb for verb in extraction(harms["verbs"], backbone, flags.only) if verb.name in flags.only]
    verbs += [training(harms["verbs"])] if "head" in flags.only else []
    for verb in verbs if flags.kills else ():
        yield kills(verb, flags.kills, [signal.SIGKILL], flags.seed, harms["kills"])
    for verb in verbs if flags.stops else ():
        yield kills(verb, flags.stops, [signal.SIGTERM, signal.SIGINT], flags.seed + 1, harms["kills"])
    for verb in verbs if flags.disks else ():
        yield full_disks(verb, flags.disks, flags.seed, harms["disk"])
    mounts = may_mount()
    if not mounts:
        print("  no file system can be mounted here: none was too small or read-only", flush=True)
    for verb in verbs if mounts and flags.disks else ():
        yield small_disks(verb, flags.disks, flags.seed, harms["disk"])
    for verb in verbs if flags.disks else ():
        yield not_ours(verb, mounts, harms["disk"])
    if "images" in flags.only:
        yield fuzz(flags.files, flags.seed, harms["fuzz"])


def save_tiny(path: Path) -> int:
    """Save the tests' tiny backbone."""
    from tests.support.album import save_tiny_backbone

    save_tiny_backbone(path)
    return 0


def main() -> int:
    """Run the campaign, print the table, and write it where it is asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each verb, by SIGKILL")
    parser.add_argument("--stops", type=int, default=20, help="of each verb, by SIGTERM and Ctrl-C in turn")
    parser.add_argument("--disks", type=int, default=20, help="full disks of each kind, of each verb")
    parser.add_argument("--damages", type=int, default=2000, help="to caches")
    parser.add_argument("--files", type=int, default=10_000, help="mutated images")
    parser.add_argument("--seconds", type=float, default=30.0, help="of reading while a cache is sealed")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="of the parts, some")
    parser.add_argument("--report", type=Path, help="a Markdown file whose table is replaced")
    flags = parser.parse_args()
    found: list[Tally] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for tally in campaign(flags, Path(folder)):
            found.append(tally)
            print(tally.row(), flush=True)
    table = "\n".join((HEADER, *(tally.row() for tally in found)))
    print(table)
    if flags.report:
        text = flags.report.read_text(encoding="utf-8")
        head, _, rest = text.partition("<!-- campaign -->\n")
        tail = rest.partition("<!-- end -->\n")[2]
        minutes = (time.monotonic() - started) / 60
        said = f"Seed {flags.seed}, {minutes:.0f} minutes on 2 cores, {time.strftime('%Y-%m-%d')}.\n\n{table}\n"
        flags.report.write_text(f"{head}<!-- campaign -->\n{said}<!-- end -->\n{tail}", encoding="utf-8")
    return 0 if all(tally.clean for tally in found) else 1


if __name__ == "__main__":
    sys.exit(main())
