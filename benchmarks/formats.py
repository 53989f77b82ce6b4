"""What each exported file gives in a process without this repository: `python -m benchmarks.formats --out OUT`.

Raw photos go in, through the preprocess.py that lies beside the model or, for the SavedModel, as bytes; probabilities
are held against cached feature and head. Speed is one photo at a time, decoding included, as a service would have it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from extract.files.manifest import Manifest
from extract.store import cache
from heads.data.dataset import rows_of
from heads.ship import bundle, export, formats

# loads one file with its own runtime alone, and is all that a user needs
ALONE = """
import json, os, sys, time
started = time.monotonic()
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
path, files, out = sys.argv[1], json.load(open(sys.argv[2])), sys.argv[3]
sys.path.insert(0, os.path.dirname(path))
if path.endswith("saved_model"):
    import tensorflow as tf
    newest = max(os.listdir(path), key=int)
    signature = tf.saved_model.load(os.path.join(path, newest)).signatures["serving_default"]
    run = lambda file: signature(image_bytes=tf.constant([open(file, "rb").read()]))
else:
    import preprocess
    if path.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter
        runner = Interpreter(path, num_threads=os.cpu_count()).get_signature_runner("pixels")
        model = lambda pixels: runner(pixels=pixels)
    elif path.endswith(".onnx"):
        import onnxruntime
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        model = lambda pixels: dict(zip(names, session.run(names, {"pixels": pixels})))
    else:
        import keras
        loaded = keras.models.load_model(path, safe_mode=True)
        model = lambda pixels: loaded.predict_on_batch(pixels)
    run = lambda file: model(preprocess.load(file))
run(files[0])
ready = time.monotonic()
given = [run(file) for file in files]
took = time.monotonic() - ready
ours = [name for name in sys.modules if name.split(".")[0] in ("extract", "heads", "benchmarks")]
assert not ours, ours
assert np.asarray(given[0]["decision"]).dtype == np.int32 and len(given[0]["probability"]) == 1
assert "tensorflow" not in sys.modules or not path.endswith((".tflite", ".onnx"))
p = [[float(x) for name in ("probability", "decision") for x in np.ravel(each[name])] for each in given]
json.dump({"p": p, "start": ready - started, "seconds": took}, open(out, "w"))
"""


def alone(path: Path, files: list[str], folder: Path) -> tuple[np.ndarray, float, float]:
    """Return probabilities and decisions (n, C), seconds to the first answer, images a second from there."""
    (folder / "files.json").write_text(json.dumps(files), encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MEDIA_DIR")}
    command = [sys.executable, "-c", ALONE, str(path), str(folder / "files.json"), str(folder / "p.json")]
    subprocess.run(command, check=True, cwd=folder, env=environment, stderr=subprocess.PIPE)
    told = json.loads((folder / "p.json").read_text(encoding="utf-8"))
    return np.array(told["p"]), told["start"], len(files) / told["seconds"]


def main() -> int:
    """Print a row for each file of an export; fail where one is outside its tolerance."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="of make features, make head and make export")
    parser.add_argument("--head", default="logistic")
    parser.add_argument("--images", type=int, default=200)
    flags = parser.parse_args()
    found, head = cache.open_cache(flags.out / "features.h5"), bundle.load(flags.out / "heads" / flags.head)
    rows = Manifest.read(flags.out / "manifest.csv").objects
    rows = random.Random(0).sample(rows, min(flags.images, len(rows)))
    expected = head.probability(found.read(rows_of(found, np.array([row.sha256 for row in rows], str))))
    print(
        "| file | MB | first answer, s | photos/s, one at a time | max difference | tolerance | flips of",
        len(rows),
        "|",
    )
    print("| --- " * 7 + "|")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / "export"  # a copy, so that nothing else of OUT is near
        shutil.copytree(flags.out / "exports" / flags.head, exported)
        for name in (name for names in formats.FILES.values() for name in names if (exported / name).exists()):
            path = exported / name
            given, start, rate = alone(path, [row.path for row in rows], Path(folder))
            by = "bytes" if name == "saved_model" else export.SCRIPT
            said = export.compare(name, by, given, expected, head.facts)
            good &= said.ok
            size = sum(file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()) / 1e6
            figures = f"{said.max_abs_diff:.1e} | {said.tolerance:g} | {said.flips}"
            print(f"| {name} | {size:.1f} | {start:.1f} | {rate:.1f} | {figures} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
