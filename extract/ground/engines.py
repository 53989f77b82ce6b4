"""How a backbone runs on this machine: TensorFlow, or OpenVINO on a CPU, in the precision that was asked for.

TensorFlow is loaded here, once, quietly, with the numerics that we promise. An engine is called from as many threads as
there are workers; small batches on many threads keep a CPU's cores busier than large ones in turn.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from extract.ground.errors import BackboneError

Item = TypeVar("Item")
Result = TypeVar("Result")
NAMES = ("tensorflow", "openvino")
PRECISIONS = ("float32", "bfloat16", "float16")
# its hint, and what a CPU that computes in it says of itself
OPENVINO_PRECISIONS = {"float32": ("f32", "FP32"), "bfloat16": ("bf16", "BF16"), "float16": ("f16", "FP16")}
# float32 in, float32 out, and in between what TensorFlow's own rewriting holds to be safe
TENSORFLOW_OPTIONS = {"bfloat16": "auto_mixed_precision_onednn_bfloat16", "float16": "auto_mixed_precision"}
# of keras.config; what a recipe means by Keras
KERAS_SETTINGS = {"backend": "tensorflow", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}
STEP = {("tensorflow", "cpu"): 8, ("tensorflow", "gpu"): 256, ("openvino", "cpu"): 4}  # images at 224 x 224


@cache
def load() -> tuple[Any, Any]:
    """Import TensorFlow and Keras (about 5 s) and return both: float32 without TF32, GPU memory taken as needed.

    Errors: BackboneError where this process imported Keras before, with other settings than ours.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with _quiet_import(), _keras_defaults():
        import keras
        import tensorflow as tf
        from absl import logging
    _refuse_other_settings(keras.config)
    keras.src.backend.config._KERAS_DIR = str(keras_home())  # where it downloads to, which it has no option for
    tf.get_logger().setLevel("ERROR")
    logging.set_verbosity(logging.ERROR)  # Keras calls .h5 legacy, TensorFlow fears for gradients that nobody asks for
    tf.config.experimental.enable_tensor_float_32_execution(False)
    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf, keras


def share_cores() -> None:
    """Let each call of TensorFlow compute on one core, as workers that share the cores want it.

    They would wait for each other in one pool of threads. Without effect in a process where TensorFlow has computed.
    """
    tf, _ = load()
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)


@cache
def hub() -> Any:
    """Import tensorflow_hub and return it, without what it and its pkg_resources warn of. Errors: BackboneError."""
    load()
    try:
        with _quiet_import(), _keras_defaults(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import tensorflow_hub
    except ImportError as error:
        raise BackboneError(
            f"tensorflow-hub cannot be imported: {error}",
            rule="It needs tf-keras, and of setuptools a version below 82, as in requirements.txt",
            then="Run .venv/bin/python -m pip install -r requirements.txt",
        ) from error
    return tensorflow_hub


def keras_home() -> Path:
    """Return the folder in which Keras keeps downloaded weights, in models/."""
    return Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras").expanduser()


@contextmanager
def _keras_defaults() -> Iterator[None]:
    """Let Keras, and tf-keras, be imported with its defaults on TensorFlow, whatever keras.json and KERAS_* say."""
    before = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("KERAS_")}
    ours = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": os.devnull}  # a keras.json is neither there nor written
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
        os.environ.update(before)


def _refuse_other_settings(config: Any) -> None:
    found = {name: getattr(config, name)() for name in KERAS_SETTINGS}
    if found != KERAS_SETTINGS:
        other = ", ".join(f"{name} {found[name]!r}" for name in found if found[name] != KERAS_SETTINGS[name])
        raise BackboneError(
            f"This process imported Keras before, with {other}",
            rule="Features and heads are made with " + ", ".join(f"{k} {v!r}" for k, v in KERAS_SETTINGS.items()),
            then="Run it in a process of its own, as python -m extract and python -m heads do",
        )


@contextmanager
def _quiet_import() -> Iterator[None]:
    """Hold back what C++ prints to stderr at import, before its log level counts; show it if the import fails."""
    with held_stderr() as held:
        try:
            yield
        except BaseException:
            held.seek(0)
            sys.stderr.write(held.read().decode(errors="replace"))
            raise


@contextmanager
def held_stderr() -> Iterator[BinaryIO]:
    """Hold back what C libraries print to file descriptor 2, and yield the file that it goes to.

    Python's sys.stderr, a progress bar on it say, goes on to where it went.
    """
    sys.stderr.flush()
    before, where, encoding = sys.stderr, os.dup(2), getattr(sys.stderr, "encoding", None) or "utf-8"
    with tempfile.TemporaryFile() as held, open(where, "w", 1, encoding, "backslashreplace") as kept:
        if _is_descriptor_2(before):
            sys.stderr = kept
        os.dup2(held.fileno(), 2)
        try:
            yield held
        finally:
            sys.stderr = before
            os.dup2(where, 2)


def _is_descriptor_2(stream: Any) -> bool:
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError):  # somebody's stand-in
        return False


@cache
def device() -> str:
    """Return "gpu" or "cpu"; a GPU that this machine has and TensorFlow cannot use is said loudly."""
    tf, _ = load()
    if tf.config.list_physical_devices("GPU"):
        return "gpu"
    if any(Path("/dev").glob("nvidia[0-9]*")):
        print(
            "WARNING: this machine has an NVIDIA GPU, but TensorFlow cannot use it: running on the CPU, many times "
            "slower. Install the CUDA build with `make features GPU=1`, or check the driver.",
            file=sys.stderr,
        )
    return "cpu"


def freeze(apply: Callable[[Any], Any], size: int, dtype: str = "uint8") -> Any:
    """Turn the variables of a graph into constants: one graph, pixels (b, S, S, 3) of `dtype` -> [float32 (b, D)].

    apply: float32 (b, S, S, 3) -> (b, D).

    On a CPU it runs 1.1 to 1.5 times as fast as the same graph with variables. No XLA: it drifts on a GPU
    (keras#22512) and is far slower on a CPU.
    """
    tf, _ = load()
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    run = tf.function(
        lambda pixels: apply(tf.cast(pixels, tf.float32)),
        jit_compile=False,
        input_signature=[tf.TensorSpec((None, size, size, 3), dtype)],
    )
    return convert_variables_to_constants_v2(run.get_concrete_function())


def cores() -> int:
    """Return how many cores this process may use: as many threads work."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def workers(engine: str) -> int:
    """Return how many threads read, decode and embed: one a core.

    With OpenVINO, whose streams are threads of its own, one more: each stream has work while an image is decoded.
    """
    return cores() + (engine == "openvino")


def ahead(
    pool: ThreadPoolExecutor, work: Callable[[Sequence[Item]], Result], items: Sequence[Item], step: int, depth: int
) -> Iterator[Result]:
    """Yield `work(block)` for blocks of `step` items, in order, at most `depth` of them begun ahead of the reader."""
    begun: deque[Future[Result]] = deque()
    for at in range(0, len(items), step):
        begun.append(pool.submit(work, items[at : at + step]))
        if len(begun) > depth:
            yield begun.popleft().result()
    while begun:
        yield begun.popleft().result()


def choose(asked: str) -> str:
    """Return the engine's name. asked: one of NAMES, or "auto": a GPU's TensorFlow, else OpenVINO, else TensorFlow.

    Errors: BackboneError where OpenVINO was asked for and is not installed.
    """
    here = find_spec("openvino") is not None
    if asked == "openvino" and not here:
        raise BackboneError(
            "ENGINE=openvino was asked for, and OpenVINO is not installed",
            then=f"Run {sys.executable} -m pip install -r requirements-cpu.txt, or leave ENGINE out",
        )
    if asked != "auto":
        return asked
    return "openvino" if here and device() == "cpu" else "tensorflow"


class TensorFlow:
    """A frozen graph as TensorFlow runs it. step: images a call, on a CPU from several threads at a time."""

    def __init__(self, apply: Callable[[Any], Any], size: int, precision: str, step: int) -> None:
        """Freeze `apply`, see `freeze`. Errors: BackboneError for a precision that makes no difference here."""
        self.step = step
        self._most = sys.maxsize  # images that fit into the device's memory at once, as far as is known
        self._turn = threading.Lock()  # on a GPU one batch at a time; a CPU's cores share several
        self._run, self._options = freeze(apply, size), _options("float32")
        if precision == "float32":
            return
        noise = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
        before = self._features(noise)
        self._options = _options(precision)
        if np.array_equal(before, self._features(noise)):
            raise BackboneError(
                f"PRECISION={precision} makes no difference with TensorFlow on this {device().upper()}",
                rule="TensorFlow has bfloat16 on CPUs that compute in it, and float16 on GPUs",
                then="Leave PRECISION out, or try ENGINE=openvino",
            )

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D); out of memory, the batch is halved."""
        tf, _ = load()
        if len(pixels) > self._most:
            return np.concatenate([self(pixels[at : at + self._most]) for at in range(0, len(pixels), self._most)])
        try:
            if device() == "cpu":
                return self._features(pixels)
            with self._turn:
                return self._features(pixels)
        except tf.errors.ResourceExhaustedError as error:
            self._most = len(pixels) // 2
            if not self._most:
                raise BackboneError("Not even one image fits into the device's memory") from error
            print(f"Out of memory at a batch of {len(pixels)}; going on with {self._most}.", file=sys.stderr)
            return self(pixels)

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        tf, _ = load()
        from tensorflow.python.eager.context import context

        thread, before = context(), context().function_call_options
        thread.function_call_options = self._options
        try:
            return self._run(tf.constant(pixels))[0].numpy()
        finally:
            thread.function_call_options = before


def _options(precision: str) -> Any:
    """Return how TensorFlow rewrites a graph that one thread calls.

    The option of tf.config would count for every graph of the process: another engine's float32 would be none.
    """
    load()
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.eager.context import FunctionCallOptions, context

    config = ConfigProto.FromString(context().function_call_options.config_proto_serialized)
    if precision in TENSORFLOW_OPTIONS:
        setattr(config.graph_options.rewrite_options, TENSORFLOW_OPTIONS[precision], 1)  # RewriterConfig.ON
    return FunctionCallOptions(config_proto=config)


class OpenVINO:
    """The same graph as OpenVINO runs it on a CPU, in as many streams as it finds best. step: images a call."""

    def __init__(self, apply: Callable[[Any], Any], size: int, precision: str, step: int) -> None:
        """Convert the frozen `apply`, see `freeze`. Errors: BackboneError for a precision that this CPU lacks."""
        import openvino

        self.step, (hint, able) = step, OPENVINO_PRECISIONS[precision]
        core = openvino.Core()
        if able not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackboneError(f"This CPU does not compute in {precision}", then="Leave PRECISION out")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "frozen.pb"
            path.write_bytes(freeze(apply, size).graph.as_graph_def().SerializeToString())
            model = core.read_model(path)
        model.reshape([step, size, size, 3])
        # the precision is always set: left alone, OpenVINO takes bfloat16 where the CPU has it
        asked = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
        compiled = core.compile_model(model, "CPU", asked)
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")):
            self._idle.put(compiled.create_infer_request())

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Return the features of pixels, uint8 (b, S, S, 3) -> float32 (b, D)."""
        found = []
        for at in range(0, len(pixels), self.step):
            block = pixels[at : at + self.step]
            filled = np.concatenate([block, np.zeros((self.step - len(block), *block.shape[1:]), np.uint8)])
            request = self._idle.get()
            try:
                found.append(request.infer({0: filled})[0][: len(block)].copy())
            finally:
                self._idle.put(request)
        return np.concatenate(found)
