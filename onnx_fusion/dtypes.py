"""The element types of tile programs and ONNX tensors, one row each."""

from __future__ import annotations

import enum

import numpy as np


class DType(enum.Enum):
    """An element type: (tile program name, ONNX TensorProto code, bytes, NumPy type that holds it).

    bf16 has no NumPy type, so its bits are held as uint16.
    """

    F32 = ("f32", 1, 4, np.dtype(np.float32))
    U8 = ("u8", 2, 1, np.dtype(np.uint8))
    I8 = ("i8", 3, 1, np.dtype(np.int8))
    U16 = ("u16", 4, 2, np.dtype(np.uint16))
    I16 = ("i16", 5, 2, np.dtype(np.int16))
    I32 = ("i32", 6, 4, np.dtype(np.int32))
    I64 = ("i64", 7, 8, np.dtype(np.int64))
    BOOL = ("bool", 9, 1, np.dtype(np.bool_))
    F16 = ("f16", 10, 2, np.dtype(np.float16))
    F64 = ("f64", 11, 8, np.dtype(np.float64))
    U32 = ("u32", 12, 4, np.dtype(np.uint32))
    U64 = ("u64", 13, 8, np.dtype(np.uint64))
    BF16 = ("bf16", 16, 2, np.dtype(np.uint16))

    def __init__(self, text: str, onnx: int, size: int, numpy: np.dtype) -> None:
        self.text = text
        self.onnx = onnx
        self.size = size
        self.numpy = numpy

    def __str__(self) -> str:
        return self.text


HALVES = frozenset((DType.F16, DType.BF16))
"""Types of 16 bits, in which nothing is computed."""

_BY_TEXT = {d.text: d for d in DType}
_BY_ONNX = {d.onnx: d for d in DType}


def from_text(text: str) -> DType | None:
    """Return the type with this tile program name, or None."""
    return _BY_TEXT.get(text)


def from_onnx(code: int) -> DType | None:
    """Return the type with this ONNX TensorProto code, or None for strings, complex and sub-byte
    types."""
    return _BY_ONNX.get(code)
