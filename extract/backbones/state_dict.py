"""The arrays of a state dict in torch's file format of before version 1.6, read without torch.

Such a file is five pickles (magic number, protocol, machine, tensors, keys of storages), then each storage: its length
as int64 and its numbers. A pickle is a program, and this project promises that nothing loaded from disk is executed.
That holds here: `pickle` can only call what `find_class` returns, which are stand-ins of our own, made anew for each
file, that store their arguments. Every other name is refused before anything is imported or called. And `lite` checks
the file's SHA-256 first.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from extract.ground.errors import BackboneError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def read(data: bytes) -> dict[str, np.ndarray]:
    """Return the arrays by name, read-only views of `data`. Errors: BackboneError for anything but a state dict."""
    try:
        return _read(io.BytesIO(data))
    except BackboneError:
        raise
    except Exception as error:  # pickle and NumPy raise a dozen types for bytes that are something else
        raise BackboneError(
            "state-dict-unreadable", f"The weights file is not a state dict in torch's older format: {error!r}"
        ) from error


def _read(file: io.BytesIO) -> dict[str, np.ndarray]:
    header = [_Unpickler(file).load() for _ in range(3)]
    if header[:2] != [MAGIC, PROTOCOL]:
        raise ValueError("other magic number or protocol")
    tensors, keys = _Unpickler(file).load(), _Unpickler(file).load()
    dtypes = {key: dtype for (key, dtype), *_ in tensors.values()}
    storages = {}
    for key in keys:
        length = int.from_bytes(file.read(8), "little") * np.dtype(dtypes[key]).itemsize
        storages[key] = file.read(length)
    return {name: _array(tensor, storages) for name, tensor in tensors.items()}


def _array(tensor: tuple[Any, ...], storages: dict[str, bytes]) -> np.ndarray:
    """Return the arguments of _rebuild_tensor_v2 as an array; NumPy refuses shapes that leave the storage."""
    (key, dtype), offset, shape, strides, *_ = tensor
    size = np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, storages[key], offset * size, [stride * size for stride in strides])


class _Unpickler(pickle.Unpickler):
    """An Unpickler that knows the names of a state dict and no other."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._globals: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): type("Named", (dict,), {}),
            ("torch._utils", "_rebuild_tensor_v2"): lambda *tensor: tensor,
            **{("torch", name): dtype for name, dtype in DTYPES.items()},
        }

    def find_class(self, module: str, name: str) -> Any:
        """Return our stand-in for a global. Errors: BackboneError for any other."""
        if (module, name) not in self._globals:
            raise BackboneError(
                "state-dict-unsafe",
                f"The weights file asks for {module}.{name}, which a state dict does not need",
                rule="Nothing that is loaded is executed",
            )
        return self._globals[module, name]

    def persistent_load(self, pid: Any) -> tuple[str, str]:
        """Return key and dtype of the storage that a tensor lies in."""
        kind, dtype, key, _, _, view = pid
        if kind != "storage" or dtype not in DTYPES.values() or view is not None:
            raise ValueError(f"{pid!r} is no storage")
        return key, dtype
