"""What a call of cuBLASLt in a plan (native/cuda/render.h: Call) means, on host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from onnx_fusion.program.model import from_bf16, to_bf16

SIZES = {"f32": 4, "f16": 2, "bf16": 2}
STORED = {"f32": np.float32, "f16": np.float16, "bf16": np.uint16}


def view(
    address: int, dtype: str, start: int, strides: Sequence[int], shape: Sequence[int]
) -> np.ndarray:
    """Return the memory from an element on, elements `strides` apart, as it is stored."""
    size = SIZES[dtype]
    assert (address + start * size) % 16 == 0
    span = sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
    memory = (ctypes.c_char * (span * size)).from_address(address + start * size)
    flat = np.frombuffer(memory, STORED[dtype])
    return np.lib.stride_tricks.as_strided(flat, shape, [s * size for s in strides])


def widen(array: np.ndarray, dtype: str) -> np.ndarray:
    return (from_bf16(array) if dtype == "bf16" else array).astype(np.float64)


def run(call: dict, pointers: Sequence[int]) -> None:
    """Make the product as NumPy does, with one rounding."""
    m, n, k, batches = call["sizes"]
    _, relu, has_c, has_bias = call["flags"]
    own, result = call["operands"], call["result"]
    a = view(pointers[0], own, call["a"][0], call["a"][1:], (batches, m, k))
    b = view(pointers[1], own, call["b"][0], call["b"][1:], (batches, k, n))
    d = view(pointers[2], result, call["d"][0], call["d"][1:], (batches, m, n))
    made = widen(a, own) @ widen(b, own)
    if has_c:
        c = view(pointers[4], result, call["c"][0], call["c"][1:], (batches, m, n))
        made += widen(c, result)
    if has_bias:
        made += widen(view(pointers[-1], result, call["at_bias"], [1], (n,)), result)
    if relu:
        made = np.maximum(made, 0)
    made = made.astype(np.float32)
    d[...] = to_bf16(made) if result == "bf16" else made.astype(STORED[result])
