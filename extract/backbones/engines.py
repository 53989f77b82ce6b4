"""How a backbone runs on this machine: TensorFlow, or OpenVINO on a CPU, in the chosen precision.

Each worker calls the engine from its own thread: small batches on many threads keep a CPU's cores busier than large
batches one after another.
"""

from __future__ import annotations

import queue
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from extract.ground import tensorflow
from extract.ground.errors import BackboneError

Item = TypeVar("Item")
Result = TypeVar("Result")
NAMES = ("tensorflow", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16")
# OpenVINO's hint, and the capability of a CPU that computes in it
OPENVINO_PRECISIONS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}
# float32 in and out; in between, what TensorFlow's own graph rewriting considers safe
TENSORFLOW_OPTIONS = {"bfloat16": "auto_mixed_precision_onednn_bfloat16", "float16": "auto_mixed_precision"}
STEP = {("tensorflow", "cpu"): 8, ("tensorflow", "gpu"): 256, ("openvino", "cpu"): 4}  # images at 224 x 224


def share_cores() -> None:
    """Let each call of TensorFlow compute on one core: in one pool of threads, workers would wait for each other.

    It has no effect in a process where TensorFlow has computed already.
    """
    tf, _ = tensorflow.load()
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)


def workers(engine: str) -> int:
    """Return how many threads read, decode and embed: one a core.

    With OpenVINO, whose streams are threads of its own, one more: each stream has work while an image is decoded.
    """
    return tensorflow.cores() + (engine == "openvino")


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Sequence[Item]], Result], items: Sequence[Item], step: int, depth: int
) -> Iterator[Result]:
    """Yield `work(block)` for blocks of `step` items, in order, at most `depth` of them started in advance."""
    begun: deque[Future[Result]] = deque()
    for at in range(0, len(items), step):
        begun.append(pool.submit(work, items[at : at + step]))
        if len(begun) > depth:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def choose(asked: str) -> str:
    """Return the engine's name. asked: one of NAMES, or "auto": TensorFlow on a GPU, else OpenVINO, else TensorFlow.

    Errors: BackboneError where OpenVINO is asked for and not installed.
    """
    installed = find_spec("openvino") is not None
    if asked == "openvino" and not installed:
        raise BackboneError(
            "openvino-missing",
            "ENGINE=openvino was given, but OpenVINO is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-cpu.txt, or leave ENGINE out",
        )
    if asked != "auto":
        return asked
    return "openvino" if installed and tensorflow.device() == "cpu" else "tensorflow"


class TensorFlow:
    """A frozen graph, run by TensorFlow. step: images a call."""

    def __init__(self, apply: Callable[[Any], Any], size: int, precision: str, step: int) -> None:
        """Freeze `apply`, see `freeze`. Errors: BackboneError for a precision that makes no difference here."""
        self.step = step
        self._most = sys.maxsize  # images that are known to fit into the device's memory at once
        self._turn = threading.Lock()  # one batch at a time on a GPU; a CPU's cores share several
        self._run, self._options = tensorflow.freeze(apply, size), tensorflow.call_options()
        if precision == "float32":
            return
        noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
        before = self._features(noise)
        self._options = tensorflow.call_options(TENSORFLOW_OPTIONS[precision])
        if np.array_equal(before, self._features(noise)):
            raise BackboneError(
                "precision-no-difference",
                f"PRECISION={precision} makes no difference with TensorFlow on this {tensorflow.device().upper()}",
                rule="TensorFlow has bfloat16 on CPUs that compute in it, and float16 on GPUs",
                then="Leave PRECISION out, or try ENGINE=openvino",
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D); out of memory, the batch is halved."""
        tf, _ = tensorflow.load()
        if len(pixels) > self._most:
            return np.concatenate([self(pixels[at : at + self._most]) for at in range(0, len(pixels), self._most)])
        try:
            if tensorflow.device() == "cpu":
                return self._features(pixels)
            with self._turn:
                return self._features(pixels)
        except tf.errors.ResourceExhaustedError as error:
            self._most = len(pixels) // 2
            if not self._most:
                raise BackboneError("out-of-memory", "Not even one image fits into the device's memory") from error
            print(f"Out of memory with a batch of {len(pixels)}; continuing with {self._most}.", file=sys.stderr)
            return self(pixels)

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        tf, _ = tensorflow.load()
        with tensorflow.called_with(self._options):
            return self._run(tf.constant(pixels))[0].numpy()


class OpenVINO:
    """The same graph, run by OpenVINO on a CPU, in as many streams as it finds best. step: images a call."""

    def __init__(self, apply: Callable[[Any], Any], size: int, precision: str, step: int) -> None:
        """Convert the frozen `apply`, see `freeze`. Errors: BackboneError for a precision that this CPU lacks."""
        import openvino

        self.step, (hint, able) = step, OPENVINO_PRECISIONS[precision]
        core = openvino.Core()
        if able not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackboneError(
                "precision-unsupported", f"This CPU does not compute in {precision}", then="Leave PRECISION out"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frozen.pb"
            path.write_bytes(tensorflow.freeze(apply, size).graph.as_graph_def().SerializeToString())
            model = core.read_model(path)
        model.reshape([step, size, size, 3])
        # the precision is always set: by default OpenVINO takes bfloat16 where the CPU has it
        hints = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
        compiled = core.compile_model(model, "CPU", hints)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D)."""
        features = []
        for at in range(0, len(pixels), self.step):
            block = pixels[at : at + self.step]
            filled = np.concatenate([block, np.zeros((self.step - len(block), *block.shape[1:]), np.uint8)])
            request = self._idle.get()
            try:
                features.append(request.infer({0: filled})[0][: len(block)].copy())
            finally:
                self._idle.put(request)
        return np.concatenate(features)
