"""What a library's call in a plan (native/cuda/render.h: Call) means, on host memory."""

from __future__ import annotations

import ctypes
import itertools
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


def multiply(call: dict, pointers: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...], int]:
    """Return a product in float64, the shape of its result, and which dim of that has a bias."""
    m, n, k, batches = call["sizes"]
    own = call["operands"]
    a = view(pointers[0], own, call["a"][0], call["a"][1:], (batches, m, k))
    b = view(pointers[1], own, call["b"][0], call["b"][1:], (batches, k, n))
    return widen(a, own) @ widen(b, own), (batches, m, n), 2


def convolve(call: dict, pointers: Sequence[int]) -> tuple[np.ndarray, tuple[int, ...], int]:
    """Return the same of a convolution."""
    images, groups, channels, filters = call["sizes"]
    space, own = call["space"], call["operands"]
    sides = {k: call[k][:space] for k in ("in", "out", "taps", "step", "dilation")}
    a = view(pointers[0], own, call["a"][0], call["a"][1 : 3 + space],
             (images, groups * channels, *sides["in"]))  # fmt: skip
    b = view(pointers[1], own, call["b"][0], call["b"][1 : 3 + space],
             (groups * filters, channels, *sides["taps"]))  # fmt: skip
    around = list(zip(call["before"], call["after"], strict=True))[:space]
    x = np.pad(widen(a, own), [(0, 0), (0, 0), *around])
    x = x.reshape(images, groups, channels, *x.shape[2:])
    w = widen(b, own).reshape(groups, filters, channels, *sides["taps"])
    made = np.zeros((images, groups, filters, *sides["out"]))
    for tap in itertools.product(*map(range, sides["taps"])):
        each = zip(tap, sides["dilation"], sides["out"], sides["step"], strict=True)
        seen = tuple(slice(t * d, t * d + (n - 1) * s + 1, s) for t, d, n, s in each)
        assert x[(..., *seen)].shape[3:] == tuple(sides["out"])
        made += np.einsum("ngc...,gkc->ngk...", x[(..., *seen)], w[(..., *tap)])
    shape = (images, groups * filters, *sides["out"])
    return made.reshape(shape), shape, 1


def run(call: dict, pointers: Sequence[int]) -> None:
    """Do what the library does, with one rounding."""
    _, relu, has_c, has_bias = call["flags"]
    result = call["result"]
    made, shape, columns = (convolve if "taps" in call else multiply)(call, pointers)
    d = view(pointers[2], result, call["d"][0], call["d"][1 : 1 + made.ndim], shape)
    if has_c:
        c = view(pointers[4], result, call["c"][0], call["c"][1 : 1 + made.ndim], shape)
        made += widen(c, result)
    if has_bias:
        bias = view(pointers[-1], result, call["at_bias"], [1], (shape[columns],))
        made += widen(bias, result).reshape([-1 if k == columns else 1 for k in range(made.ndim)])
    if relu:
        made = np.maximum(made, 0)
    made = made.astype(np.float32)
    d[...] = to_bf16(made) if result == "bf16" else made.astype(STORED[result])
