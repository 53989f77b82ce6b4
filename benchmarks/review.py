"""Label review: are wrong labels found early, is accuracy restored, and how soon are the heads trained anew?

`python -m benchmarks.review` times 20,000 made-up rows of 1280 features. With `--out OUT`, labels of that cache are
flipped at random (2 %, five seeds), and a reviewer who knows the truth goes through the head of the queue.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from extract import workspace
from extract.files.manifest import TABLE_COLUMNS
from extract.ground import files
from extract.workspace import Workspace
from heads.data import dataset
from heads.review.desk import Desk, State
from heads.review.worker import PAUSE
from tests.support import synthetic

SHARE, SEEN = 0.02, 0.04  # of the labels: flipped, and looked at


def settled(desk: Desk, answers: int) -> State:
    """Wait until the heads know that many answers, neighbours included; return the state."""
    while (state := desk.state()).busy or state.history[-1][0] < answers:
        if state.error:
            raise SystemExit(state.error)
        time.sleep(0.001)
    return state


def latency(rows: int, answers: int) -> None:
    """Print how long it takes from an answer until queue and accuracy know it, flipping the most suspicious label."""
    with tempfile.TemporaryDirectory() as folder:
        place = synthetic.workspace(Path(folder), rows)
        started = time.monotonic()
        desk = Desk(place, "benchmark")
        desk.start()
        settled(desk, 0)
        ready, seconds = time.monotonic() - started, []
        for number in range(1, answers + 1):
            top = desk.queue("suspects", 0, 1).rows[0]
            new = next(name for name in desk.rows.task.classes if name != top.label)
            started = time.monotonic()
            desk.answer(top.row, "flip", old=top.label, new=new, number=0)
            settled(desk, number)
            seconds.append(time.monotonic() - started)
        desk.close()
    print(
        f"{rows:>8,} rows  ready after {ready:.1f} s; an answer is known to queue and accuracy after "
        f"{np.median(seconds):.2f} s (median of {answers}; {min(seconds):.2f} to {max(seconds):.2f})",
        flush=True,
    )


def planted(place: Workspace, seed: int, folder: Path) -> tuple[float, float, float, float]:
    """Flip labels, mend the first SEEN of the queue; return share found, accuracy unflipped, flipped and mended."""
    table, _ = dataset.read_table(replace(place, out=folder))
    truth = dict(zip(table["objectId"], table["value"], strict=True))
    classes = sorted(set(truth.values()) - {""})
    labelled = [name for name, value in truth.items() if value]
    rng = np.random.default_rng(seed)
    flipped = set(rng.choice(labelled, round(SHARE * len(labelled)), replace=False).tolist())
    told = {n: str(rng.choice([c for c in classes if c != v])) if n in flipped else v for n, v in truth.items()}
    accuracy = {}
    for what, values in (("truth", truth), ("flipped", told)):
        table["value"] = table["objectId"].map(values)
        out = folder / f"{what}-{seed}"
        files.write_csv(out / "labels.csv", TABLE_COLUMNS, table[list(TABLE_COLUMNS)].itertuples(index=False))
        desk = Desk(replace(place, out=out, data=out / "labels.csv"), "benchmark")
        desk.start()
        accuracy[what] = settled(desk, 0).validation.value
        if what == "truth":
            desk.close()
    first = desk.queue("suspects", 0, round(SEEN * len(labelled))).rows
    for row in first:
        right = truth[row.id]
        word = "keep" if row.label == right else "flip"
        desk.answer(row.row, word, old=row.label, new=right, number=row.number)
    time.sleep(2 * PAUSE)  # in which C is chosen anew
    mended = settled(desk, len(first)).validation.value
    desk.close()
    return sum(row.id in flipped for row in first) / len(flipped), accuracy["truth"], accuracy["flipped"], mended


def main() -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[20_000])
    parser.add_argument("--out", help="an OUT of make features whose labels are flipped, in a copy")
    flags = parser.parse_args()
    for rows in flags.rows if not flags.out else []:
        latency(rows, 30)
    if not flags.out:
        return
    place = workspace.resolve(out=flags.out)
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(5):
            found, truth, flipped, mended = planted(place, seed, Path(folder))
            print(
                f"seed {seed}  {found:.3f} of the flipped {SHARE:.0%} stand among the first {SEEN:.0%} of the queue; "
                f"validation accuracy {truth:.4f} unflipped, {flipped:.4f} flipped, {mended:.4f} once those are mended",
                flush=True,
            )


if __name__ == "__main__":
    main()
