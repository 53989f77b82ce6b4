"""The pass over the images against what a user would run instead: `python -m benchmarks.extraction`.

In turn, each as a process of its own, on the same photos and network: the original training script's epoch, Keras'
model.predict over image_dataset_from_directory, engines fed from memory, decoding alone, and `make features` by engine
and precision. The limit of a pass on a CPU, whose cores decoding and backbone share, is 1 / (1 / D + 1 / E), D being
decoding alone and E the engine's own loop: a bare one over TensorFlow's frozen graph, OpenVINO's own benchmark_app.

A first head is the pass over the original's 19,658 images (the start as measured, then the rate) and `make head` on as
many rows, against ten of the original's epochs without its start; a further head is that `make head` alone, timed as a
process. Writes tables and their figures as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from extract import demo, workspace
from extract.backbones import backbone, engines
from extract.backbones.lite import LITE0
from extract.files import manifest
from extract.files.manifest import TABLE_COLUMNS
from extract.ground import files
from extract.ground import tensorflow as ground
from extract.images import decode as images
from tests.support import synthetic

ORIGINAL_IMAGES, EPOCHS = 19_658, 10
HERE = Path(__file__).parent
OURS = {"tensorflow float32": "ours, tensorflow float32", "openvino float32": "ours, openvino float32"}
OURS["openvino bfloat16"] = "ours, openvino bfloat16"
BESIDE = f", {LITE0}"  # what runs with Lite0 beside the network that was asked for are called


def rate(run: Callable[[], Any], n: int) -> float:
    """Return images/s of a run over n images, after a first one to warm up."""
    run()
    started = time.perf_counter()
    run()
    return n / (time.perf_counter() - started)


# ---- contenders: each is called in a process of its own with the sample's folder, and returns images/s


def original(folder: Path, network: str) -> float:
    """One epoch of the original script; the backbone is the same file instead of the Hub's module."""
    _, keras = ground.load()
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
    _, keras = ground.load()
    model = backbone.load(backbone.resolve(network)).model
    size = model.input_shape[1:3]
    data = keras.utils.image_dataset_from_directory(
        folder / "tree", image_size=size, batch_size=32, shuffle=False, verbose=0
    )
    return rate(lambda: model.predict(data, verbose=0), len(data.file_paths))


def decode(folder: Path, network: str) -> float:
    """D: reading, decoding and resizing alone, on all cores."""
    size, paths = backbone.resolve(network).input_size, _paths(folder / "tree")
    with ThreadPoolExecutor(ground.cores()) as pool:
        return rate(lambda: list(pool.map(lambda path: images.load(path, size), paths)), len(paths))


def tensorflow(folder: Path, network: str) -> float:
    """E: a bare loop over the frozen graph, from memory."""
    loaded, pixels = _pixels(folder, network)
    tf, _ = ground.load()
    frozen = ground.freeze(loaded.apply, loaded.input_size)
    batches = [tf.constant(pixels[at : at + 32]) for at in range(0, len(pixels), 32)]
    return rate(lambda: [frozen(batch)[0].numpy() for batch in batches], len(pixels))


def openvino(folder: Path, network: str, hint: str) -> float:
    """E: OpenVINO's benchmark_app on the same frozen graph and block, pixels from memory. hint: f32 or bf16."""
    import openvino as ov

    if {"f32": "FP32", "bf16": "BF16"}[hint] not in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise RuntimeError(f"this CPU does not compute in {hint}")
    loaded = backbone.load(backbone.resolve(network))
    path = folder / "frozen.pb"
    path.write_bytes(ground.freeze(loaded.apply, loaded.input_size).graph.as_graph_def().SerializeToString())
    shape = f"[{engines.STEP['openvino', 'cpu']},{loaded.input_size},{loaded.input_size},3]"
    app = Path(sys.executable).with_name("benchmark_app")
    command = [app, "-m", path, "-shape", shape, "-hint", "throughput", "-infer_precision", hint, "-t", "15"]
    said = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout
    return float(re.findall(r"Throughput:\s*([\d.]+)", said)[0])


def onnx(folder: Path, network: str) -> float:
    """E: ONNX Runtime, from memory; needs tf2onnx and onnxruntime, which nothing else here does."""
    import onnxruntime
    import tf2onnx

    loaded, pixels = _pixels(folder, network)
    graph = ground.freeze(loaded.apply, loaded.input_size).graph
    inputs = [each.name for each in graph.inputs if each.dtype.name == "uint8"] or ["pixels:0"]
    outputs = [graph.get_operations()[-1].outputs[0].name]
    path = str(folder / "model.onnx")
    tf2onnx.convert.from_graph_def(
        graph.as_graph_def(), input_names=inputs, output_names=outputs, opset=17, output_path=path
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batches = [{session.get_inputs()[0].name: pixels[at : at + 8]} for at in range(0, len(pixels), 8)]
    return rate(lambda: [session.run(None, batch) for batch in batches], len(pixels))


def sized(folder: Path, network: str, width: int, height: int, *, dct: bool = True) -> float:
    """D of JPEGs of another size, made from the sample; with dct=False decoded whole and then resized, as is usual."""
    size, paths = backbone.resolve(network).input_size, _resized(folder, width, height)

    def whole(path: str) -> np.ndarray:
        tf, _ = ground.load()
        pixels = tf.io.decode_jpeg(Path(path).read_bytes(), channels=3, dct_method="INTEGER_ACCURATE")
        return images._finish(pixels, tf.constant(1, tf.int64), size).numpy()

    with ThreadPoolExecutor(ground.cores()) as pool:
        one = (lambda path: images.load(path, size)) if dct else whole
        return rate(lambda: list(pool.map(one, paths)), len(paths))


def _resized(folder: Path, width: int, height: int) -> list[str]:
    """Write some of the sample's photos at another size, once; return their paths."""
    there, n = folder / f"{width}x{height}", min(256, max(8, 200_000_000 // (width * height)))
    if not there.exists():
        there.mkdir()
        for number, path in enumerate(_paths(folder / "tree")[:n]):
            with Image.open(path) as image:
                image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(
                    there / f"{number}.jpg", quality=90
                )
    return _paths(there)


CONTENDERS: dict[str, Callable[[Path, str], float]] = {
    "the original's epoch": original,
    "model.predict over a folder": predict,
    "from memory: TensorFlow, frozen graph": tensorflow,
    "from memory: ONNX Runtime": onnx,
    "from memory: OpenVINO float32": lambda folder, network: openvino(folder, network, "f32"),
    "from memory: OpenVINO bfloat16": lambda folder, network: openvino(folder, network, "bf16"),
    "decoding alone": decode,
    "decoding alone, 64 x 64": lambda folder, network: sized(folder, network, 64, 64),
    "decoding alone, 12 megapixels": lambda folder, network: sized(folder, network, 4000, 3000),
    "the same, decoded whole": lambda folder, network: sized(folder, network, 4000, 3000, dct=False),
    "decoding alone, 48 megapixels": lambda folder, network: sized(folder, network, 8000, 6000),
    "the same, decoded whole, 48 megapixels": lambda folder, network: sized(folder, network, 8000, 6000, dct=False),
}


def _paths(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


def _pixels(folder: Path, network: str) -> tuple[backbone.Backbone, np.ndarray]:
    loaded, paths = backbone.load(backbone.resolve(network)), _paths(folder / "tree")
    with ThreadPoolExecutor(ground.cores()) as pool:
        return loaded, np.stack(list(pool.map(lambda path: images.load(path, loaded.input_size), paths)))


# ---- the whole


def ours(folder: Path, network: str, engine: str, precision: str) -> tuple[float, float, float] | None:
    """T: `make features` as a process, on the sample: its own images/s, the seconds beside them, its memory in GB.

    None where it is refused, as bfloat16 is where the CPU does not compute in it.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as out:
        given = {"data": folder / "sample.csv", "media": folder / "tree", "backbone": network, "out": out}
        given |= {"engine": engine, "precision": precision}
        flags = [f"--{name}={value}" for name, value in given.items()]
        started = time.perf_counter()
        command = [sys.executable, "-m", "extract", "features", *flags]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            said = process.stderr.read()
            _, status, usage = os.wait4(process.pid, 0)  # the memory of this child alone
            process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            print(f"{engine} {precision}: {said.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        told = json.loads((Path(out) / "last_run.json").read_text(encoding="utf-8"))["features"]
        rate = told["images_per_second"]
        return rate, wall - told["embedded"] / rate, usage.ru_maxrss * 1024 / 1e9


def further_head(place: workspace.Workspace) -> float:
    """`make head` on a cache of the original's size, as a process: seconds."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "heads", "train", "--out", str(place.out), "--head", "sigmoid"]
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def apart(name: str, folder: Path, network: str) -> float | None:
    """Run a contender in a process of its own; None where it fails, as ONNX Runtime does where it is not installed."""
    command = [sys.executable, "-m", "benchmarks.extraction", f"--run={name}"]
    command += [f"--folder={folder}", f"--backbone={network}"]
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
    files.write_csv(folder / "sample.csv", TABLE_COLUMNS, rows)


def measure(folder: Path, network: str, repeats: int) -> dict[str, list[float | None]]:
    """Run everything in turn, `repeats` times; return by contender images/s, and seconds of starts and heads."""
    found: dict[str, list[float | None]] = {}
    with tempfile.TemporaryDirectory() as out:
        place = synthetic.workspace(Path(out), ORIGINAL_IMAGES)
        for _ in range(repeats):
            for name in CONTENDERS:
                found.setdefault(name, []).append(apart(name, folder, network))
            for how, name in OURS.items():
                for spec, beside in {network: "", LITE0: BESIDE if network != LITE0 else ""}.items():
                    told = ours(folder, spec, *how.split()) or (None, None, None)
                    for what, value in zip((name, f"start, {how}", f"memory, {how}"), told, strict=True):
                        found.setdefault(what + beside, []).append(value)
            for name in ("second head", "tenth head"):
                found.setdefault(name, []).append(further_head(place))
            print({name: values[-1] and round(values[-1], 1) for name, values in found.items()}, flush=True)
    return found


def table(found: dict[str, list[float | None]], n: int) -> str:
    """Return the Markdown table of rates: medians with spread, and ratios within each repeat."""
    lines = [f"| {n} images, {len(next(iter(found.values())))} repeats | images/s | x model.predict | of the limit |"]
    lines.append("| --- | --- | --- | --- |")
    engine_of = {
        "ours, tensorflow float32": "from memory: TensorFlow, frozen graph",
        "ours, openvino float32": "from memory: OpenVINO float32",
        "ours, openvino bfloat16": "from memory: OpenVINO bfloat16",
    }
    for name in found:
        if name not in (*CONTENDERS, *OURS.values()):
            continue
        limit = ""
        if name in engine_of:
            both = 1 / _column(found, "decoding alone") + 1 / _column(found, engine_of[name])
            limit = _spread(_column(found, name) * both, ".2f")
        ratio = _spread(_column(found, name) / _column(found, "model.predict over a folder"), ".2f")
        lines.append(f"| {name} | {_spread(_column(found, name), '.1f')} | {ratio} | {limit} |")
    return "\n".join(lines)


def beside_table(found: dict[str, list[float | None]]) -> str:
    """Return the Markdown table of Lite0 beside the other network, ratios within each repeat."""
    lines = ["| pass | images/s | x the other | start, s | memory, GB |", "| --- | --- | --- | --- | --- |"]
    for how, name in OURS.items():
        for beside in ("", BESIDE):
            ratio = _spread(_column(found, name + beside) / _column(found, name), ".2f")
            cells = [
                _spread(_column(found, what + beside), ".1f") for what in (name, f"start, {how}", f"memory, {how}")
            ]
            lines.append(f"| {name}{beside} | {cells[0]} | {ratio} | {cells[1]} | {cells[2]} |")
    return "\n".join(lines)


def heads_table(found: dict[str, list[float | None]]) -> str:
    """Return the Markdown table of times to a trained head, scaled to the original's images."""
    original = EPOCHS * ORIGINAL_IMAGES / _column(found, "the original's epoch")
    head = _column(found, "second head")
    seconds = {
        f"first head, {how}": _column(found, f"start, {how}") + ORIGINAL_IMAGES / _column(found, name) + head
        for how, name in OURS.items()
    }
    seconds |= {"second head": head, "tenth head": _column(found, "tenth head")}
    lines = [f"| {ORIGINAL_IMAGES:,} images | seconds | times as fast as the original |", "| --- | --- | --- |"]
    lines.append(f"| the original, {EPOCHS} epochs, each head | {_spread(original, ',.0f')} | |")
    for name, took in seconds.items():
        lines.append(f"| {name} | {_spread(took, ',.1f')} | {_spread(original / took, ',.0f')} |")
    return "\n".join(lines)


def _column(found: dict[str, list[float | None]], name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in found[name]])


def _spread(values: np.ndarray, form: str) -> str:
    if not np.isfinite(values).any():
        return "did not run"
    return f"{np.nanmedian(values):{form}} ({np.nanmin(values):{form}} to {np.nanmax(values):{form}})"


def machine() -> str:
    """Name the processor, cores and versions, and no host."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    return f"{cpu}, {ground.cores()} cores, no GPU used; Python {platform.python_version()}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", help="default: the demo's table")
    parser.add_argument("--media")
    parser.add_argument("--backbone", default=LITE0, help="a .keras file, or a name")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path, default=HERE, help="folder of RESULTS.md and results.json")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.run:
        print(CONTENDERS[flags.run](flags.folder, flags.backbone))
        return
    given = {"data": flags.data, "media": flags.media, "backbone": flags.backbone if flags.data else None}
    place = demo.ensure(workspace.resolve(**given))
    with tempfile.TemporaryDirectory() as folder:
        sample(place, flags.images, Path(folder) / "sample")
        found = measure(Path(folder) / "sample", flags.backbone, flags.repeats)
    text = f"{table(found, flags.images)}\n\n{heads_table(found)}"
    if flags.backbone != LITE0:
        text += f"\n\n{beside_table(found)}"
    print(text)
    files.write_json(flags.results / "results.json", {"machine": machine(), "images": flags.images, "measured": found})
    (flags.results / "RESULTS.md").write_text(f"# Extraction, measured\n\n{machine()}.\n\n{text}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
