"""The pass over the images against what a user would run instead: `python -m benchmarks.extraction`.

In turn, each as a process of its own, on the same photos and network: the original training script's epoch, Keras'
model.predict over image_dataset_from_directory, engines fed from memory, decoding alone, and `make features` by engine
and precision. The limit of a pass on a CPU, whose cores decoding and backbone share, is 1 / (1 / D + 1 / E), D being
decoding alone and E the engine's own loop. Writes a table and its figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from extract import artifacts, backbone, engines, images, manifest, workspace
from extract.manifest import TABLE_COLUMNS

ORIGINAL_IMAGES, EPOCHS = 19_658, 10
HERE = Path(__file__).parent
OURS = {"tensorflow float32": "ours, tensorflow float32", "openvino float32": "ours, openvino float32"}
OURS["openvino bfloat16"] = "ours, openvino bfloat16"


def rate(run: Callable[[], Any], n: int) -> float:
    """Return images/s of a run over n images, after a first one to warm up."""
    run()
    started = time.perf_counter()
    run()
    return n / (time.perf_counter() - started)


# ---- contenders: each is called in a process of its own with the sample's folder, and returns images/s


def original(folder: Path, network: str) -> float:
    """One epoch of the original script; the backbone is the same file instead of the Hub's module."""
    _, keras = engines.load()
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    frozen = backbone.load(backbone.resolve(network)).model
    size = frozen.input_shape[1]
    model = keras.Sequential([keras.Input((size, size, 3)), frozen, keras.layers.Dense(1, activation="sigmoid")])
    model.compile("adam", "binary_crossentropy")
    flow = ImageDataGenerator(rescale=1 / 255).flow_from_directory(
        folder / "tree", target_size=(size, size), batch_size=512, class_mode="binary"
    )
    return rate(lambda: model.fit(flow, epochs=1, verbose=0), flow.samples)


def predict(folder: Path, network: str) -> float:
    """Keras' predict over a folder, as its guides show it."""
    _, keras = engines.load()
    model = backbone.load(backbone.resolve(network)).model
    size = model.input_shape[1:3]
    data = keras.utils.image_dataset_from_directory(
        folder / "tree", image_size=size, batch_size=32, shuffle=False, verbose=0
    )
    return rate(lambda: model.predict(data, verbose=0), len(data.file_paths))


def decode(folder: Path, network: str) -> float:
    """D: reading, decoding and resizing alone, on all cores."""
    size, paths = backbone.resolve(network).input_size, _paths(folder)
    with ThreadPoolExecutor(engines.cores()) as pool:
        return rate(lambda: list(pool.map(lambda path: images.load(path, size), paths)), len(paths))


def tensorflow(folder: Path, network: str) -> float:
    """E: a bare loop over the frozen graph, from memory."""
    loaded, pixels = _pixels(folder, network)
    tf, _ = engines.load()
    frozen = engines.freeze(loaded.apply, loaded.input_size)
    batches = [tf.constant(pixels[at : at + 32]) for at in range(0, len(pixels), 32)]
    return rate(lambda: [frozen(batch)[0].numpy() for batch in batches], len(pixels))


def openvino(folder: Path, network: str, hint: str) -> float:
    """E: OpenVINO's own asynchronous loop, from memory. hint: f32 or bf16."""
    import openvino as ov

    loaded, pixels = _pixels(folder, network)
    path = folder / "frozen.pb"
    path.write_bytes(engines.freeze(loaded.apply, loaded.input_size).graph.as_graph_def().SerializeToString())
    core = ov.Core()
    model = core.read_model(path)
    model.reshape([4, *pixels.shape[1:]])
    how = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
    queue = ov.AsyncInferQueue(core.compile_model(model, "CPU", how))
    batches = [pixels[at : at + 4] for at in range(0, len(pixels) - 3, 4)]

    def run() -> None:
        for batch in batches:
            queue.start_async({0: batch})
        queue.wait_all()

    return rate(run, 4 * len(batches))


def onnx(folder: Path, network: str) -> float:
    """E: ONNX Runtime, from memory; needs tf2onnx and onnxruntime, which nothing else here does."""
    import onnxruntime
    import tf2onnx

    loaded, pixels = _pixels(folder, network)
    graph = engines.freeze(loaded.apply, loaded.input_size).graph
    inputs = [each.name for each in graph.inputs if each.dtype.name == "uint8"] or ["pixels:0"]
    outputs = [graph.get_operations()[-1].outputs[0].name]
    path = str(folder / "model.onnx")
    tf2onnx.convert.from_graph_def(
        graph.as_graph_def(), input_names=inputs, output_names=outputs, opset=17, output_path=path
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [{session.get_inputs()[0].name: pixels[at : at + 8]} for at in range(0, len(pixels), 8)]
    return rate(lambda: [session.run(None, batch) for batch in batches], len(pixels))


CONTENDERS: dict[str, Callable[[Path, str], float]] = {
    "the original's epoch": original,
    "model.predict over a folder": predict,
    "from memory: TensorFlow, frozen graph": tensorflow,
    "from memory: ONNX Runtime": onnx,
    "from memory: OpenVINO float32": lambda folder, network: openvino(folder, network, "f32"),
    "from memory: OpenVINO bfloat16": lambda folder, network: openvino(folder, network, "bf16"),
    "decoding alone": decode,
}


def _paths(folder: Path) -> list[str]:
    return sorted(str(path) for path in (folder / "tree").rglob("*") if path.is_file())


def _pixels(folder: Path, network: str) -> tuple[backbone.Backbone, np.ndarray]:
    loaded, paths = backbone.load(backbone.resolve(network)), _paths(folder)
    with ThreadPoolExecutor(engines.cores()) as pool:
        return loaded, np.stack(list(pool.map(lambda path: images.load(path, loaded.input_size), paths)))


# ---- the whole


def ours(folder: Path, network: str, engine: str, precision: str) -> float:
    """T: `make features` as a process, on the sample; its own images/s, from the first image to the last."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "extract", "features", "--data", str(folder / "sample.csv"), "--out", out]
        command += [
            "--media",
            str(folder / "tree"),
            "--backbone",
            network,
            "--engine",
            engine,
            "--precision",
            precision,
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return json.loads((Path(out) / "last_run.json").read_text())["features"]["images_per_second"]


def apart(name: str, folder: Path, network: str) -> float | None:
    """Run a contender in a process of its own; None where it fails, as ONNX Runtime does where it is not installed."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.extraction",
        "--run",
        name,
        "--folder",
        str(folder),
        "--backbone",
        network,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return float(done.stdout.split()[-1])


def sample(place: workspace.Workspace, n: int, folder: Path) -> None:
    """Lay n images of a table out as folder/tree/<class>/<id>, links, and as a table of them."""
    table = manifest.read_table(place.data)
    rows = []
    for name, value, path in zip(table["objectId"], table["value"], manifest.locate(table, place.media), strict=True):
        if path and len(rows) < n:
            link = folder / "tree" / (value or "none") / f"{len(rows):05d}{os.path.splitext(path)[1] or '.jpg'}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
            rows.append((name, value, "", link.relative_to(folder / "tree").as_posix(), ""))
    artifacts.write_csv(folder / "sample.csv", TABLE_COLUMNS, rows)


def measure(folder: Path, network: str, repeats: int) -> dict[str, list[float | None]]:
    """Run everything in turn, `repeats` times; return images/s by contender."""
    found: dict[str, list[float | None]] = {}
    for _ in range(repeats):
        for name in CONTENDERS:
            found.setdefault(name, []).append(apart(name, folder, network))
        for how, name in OURS.items():
            found.setdefault(name, []).append(ours(folder, network, *how.split()))
        print({name: rates[-1] and round(rates[-1], 1) for name, rates in found.items()}, flush=True)
    return found


def table(found: dict[str, list[float | None]], n: int) -> str:
    """Return the Markdown table: medians with spread, and ratios within each repeat."""

    def column(name: str) -> np.ndarray:
        return np.array([np.nan if rate is None else rate for rate in found[name]])

    def spread(values: np.ndarray, form: str) -> str:
        if not np.isfinite(values).any():
            return "did not run"
        return f"{np.nanmedian(values):{form}} ({np.nanmin(values):{form}} to {np.nanmax(values):{form}})"

    lines = [f"| {n} images, {len(next(iter(found.values())))} repeats | images/s | x model.predict | of the limit |"]
    lines.append("| --- | --- | --- | --- |")
    engine_of = {
        "ours, tensorflow float32": "from memory: TensorFlow, frozen graph",
        "ours, openvino float32": "from memory: OpenVINO float32",
        "ours, openvino bfloat16": "from memory: OpenVINO bfloat16",
    }
    for name in found:
        limit = ""
        if name in engine_of:
            both = 1 / column("decoding alone") + 1 / column(engine_of[name])
            limit = spread(column(name) * both, ".2f")
        ratio = spread(column(name) / column("model.predict over a folder"), ".2f")
        lines.append(f"| {name} | {spread(column(name), '.1f')} | {ratio} | {limit} |")
    return "\n".join(lines)


def machine() -> str:
    """Name the processor, cores and versions, and no host."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return f"{cpu}, {engines.cores()} cores, no GPU used; Python {platform.python_version()}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="default: the demo's table")
    parser.add_argument("--media")
    parser.add_argument("--backbone", default="embedded", help="a .keras file, or embedded")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=HERE, help="folder of RESULTS.md and results.json")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.run:
        print(CONTENDERS[flags.run](flags.folder, flags.backbone))
        return
    place = workspace.resolve(data=flags.data, media=flags.media, backbone=flags.backbone if flags.data else None)
    with tempfile.TemporaryDirectory() as folder:
        sample(place, flags.images, Path(folder))
        found = measure(Path(folder), flags.backbone, flags.repeats)
    text = table(found, flags.images)
    print(text)
    artifacts.write_json(flags.results / "results.json", {"machine": machine(), "images": flags.images, "rates": found})
    (flags.results / "RESULTS.md").write_text(f"# Extraction, measured\n\n{machine()}.\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
