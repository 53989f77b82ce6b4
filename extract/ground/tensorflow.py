"""TensorFlow and Keras: loaded once, quietly, with the numerics that we promise, and the device that they run on."""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from extract.ground.errors import BackboneError

# of keras.config; what a recipe means by Keras
KERAS_SETTINGS = {"backend": "tensorflow", "floatx": "float32", "epsilon": 1e-7, "image_data_format": "channels_last"}


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
            "hub-unimportable",
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
            "keras-already-imported",
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


def call_options(rewrite: str = "") -> Any:
    """Return how TensorFlow rewrites a graph that one thread calls; rewrite: an option of RewriterConfig to turn on.

    The option of tf.config would count for every graph of the process: another engine's float32 would be none.
    """
    load()
    from tensorflow.core.protobuf.config_pb2 import ConfigProto
    from tensorflow.python.eager.context import FunctionCallOptions, context

    config = ConfigProto.FromString(context().function_call_options.config_proto_serialized)
    if rewrite:
        setattr(config.graph_options.rewrite_options, rewrite, 1)  # RewriterConfig.ON
    return FunctionCallOptions(config_proto=config)


@contextmanager
def called_with(options: Any) -> Iterator[None]:
    """Let this thread call graphs with what `call_options` returned."""
    from tensorflow.python.eager.context import context

    thread, before = context(), context().function_call_options
    thread.function_call_options = options
    try:
        yield
    finally:
        thread.function_call_options = before


def cores() -> int:
    """Return how many cores this process may use: as many threads work."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
