"""Constant data that stays where it is until someone asks for it."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx.numpy_helper

from onnx_fusion.dtypes import DType, from_onnx


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Weight:
    """A handle on one constant tensor.

    `code` is the element type as TensorProto writes it, `dtype` the same if `dtypes` has it, else
    None. `nbytes` counts the bytes that `raw_data` holds. `path` is the file whose mapping backs
    the data, None if it is in memory. The data is read when `raw` or `array` is called and never
    kept.
    """

    code: int
    shape: tuple[int, ...]
    nbytes: int
    _read: Callable[[], memoryview]
    path: str | None = None

    @property
    def dtype(self) -> DType | None:
        return from_onnx(self.code)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def raw(self) -> memoryview:
        """Return the little-endian bytes that TensorProto.raw_data holds; a view where possible."""
        read = _READ.get()
        if read is None:
            return self._read()
        read.add(self)
        # What this one is made of is its own affair.
        token = _READ.set(None)
        try:
            return self._read()
        finally:
            _READ.reset(token)

    def array(self) -> np.ndarray:
        """Return the data as a read-only array: a view of the model file where possible.

        bf16 comes as its bits (uint16); types outside `dtypes` as onnx.numpy_helper gives them.
        """
        if self.dtype is not None:
            array = np.frombuffer(self.raw(), self.dtype.numpy).reshape(self.shape)
        else:
            array = onnx.numpy_helper.to_array(self.tensor("", data=True))
        array.flags.writeable = False
        return array

    def tensor(self, name: str, *, data: bool) -> onnx.TensorProto:
        """Return a TensorProto of this type and shape, with its bytes if `data`."""
        tensor = onnx.TensorProto(name=name, data_type=self.code, dims=self.shape)
        if data:
            tensor.raw_data = bytes(self.raw())
        return tensor

    @staticmethod
    def of(array: np.ndarray, dtype: DType | None = None) -> Weight:
        """Return a handle on `array`, which must not change from now on. bf16 bits need `dtype`."""
        if dtype is None:
            dtype = from_onnx(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
        if dtype is None or dtype.numpy != array.dtype:
            raise TypeError(f"no element type for NumPy's {array.dtype}")
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        view = memoryview(flat) if array.size else memoryview(b"")
        return Weight(dtype.onnx, array.shape, array.nbytes, lambda: view)

    @staticmethod
    def of_tensor(tensor: onnx.TensorProto) -> Weight:
        """Return a handle on a TensorProto that holds its own data (of a fixed-size type)."""
        shape = tuple(tensor.dims)
        return Weight(tensor.data_type, shape, raw_size(tensor.data_type, shape),
                      lambda: memoryview(_raw(tensor)))


_READ: contextvars.ContextVar[set[Weight] | None] = contextvars.ContextVar("read", default=None)


@contextlib.contextmanager
def watch() -> Iterator[set[Weight]]:
    """Yield the set of weights whose data is read meanwhile."""
    read: set[Weight] = set()
    token = _READ.set(read)
    try:
        yield read
    finally:
        _READ.reset(token)


def raw_size(code: int, shape: tuple[int, ...]) -> int:
    """Return how many bytes `raw_data` has for this element type (a TensorProto code) and shape."""
    bits = _bits(code)
    return (math.prod(shape) * bits + 7) // 8


def is_fixed_size(code: int) -> bool:
    """True for element types that `raw_data` can hold: all but strings and the undefined."""
    return code not in (onnx.TensorProto.UNDEFINED, onnx.TensorProto.STRING) and _bits(code) > 0


def _bits(code: int) -> int:
    dtype = from_onnx(code)
    if dtype is not None:
        return 8 * dtype.size
    name = onnx.TensorProto.DataType.Name(code) if code in _CODES else ""
    for prefix, bits in _OTHER_BITS.items():
        if name.startswith(prefix):
            return bits
    return 0


_CODES = frozenset(onnx.TensorProto.DataType.values())
_OTHER_BITS = {"COMPLEX64": 64, "COMPLEX128": 128, "FLOAT8": 8, "INT4": 4, "UINT4": 4, "FLOAT4": 4,
               "INT2": 2, "UINT2": 2}


def _raw(tensor: onnx.TensorProto) -> bytes:
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    dtype = from_onnx(tensor.data_type)
    if dtype is None:
        array = onnx.numpy_helper.to_array(tensor)
        return onnx.numpy_helper.from_array(array).raw_data
    return np.ascontiguousarray(onnx.numpy_helper.to_array(tensor)).tobytes()
