"""Rules that fold constant scales, biases and padding into the contraction beside them.

New weights are computed in float64, rounded once, and only when they are read: what is planned but
not emitted costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.passes.rewrite.model import (
    Exactness,
    LazyWeight,
    Proposal,
    Rule,
    Scene,
    constant,
    elements,
    is_available,
    make,
    uniform,
)
from onnx_fusion.passes.rewrite.moves import before, ints

_LEAST, _MOST = 2.0 ** -20, 2.0 ** 20
"""Factors beyond these are not folded: products with weights might leave float32's range."""
_LARGEST = 16 << 20
_PAD_INPUT = 11


def lazily(shape: tuple[int, ...], compute: Callable[[], np.ndarray]) -> Value:
    """Return a new float32 constant whose data is computed when it is first read."""
    def read() -> memoryview:
        array = np.ascontiguousarray(compute().astype(np.float32)).reshape(-1)
        return memoryview(array.view(np.uint8)) if array.size else memoryview(b"")

    size = 4 * int(np.prod(shape))
    weight = LazyWeight(DType.F32.onnx, tuple(shape), size, read)
    return Value("", DType.F32, tuple(shape), weight)


def wide(value: Value) -> np.ndarray:
    return value.weight.array().astype(np.float64)


def is_weight(value: Value | None) -> bool:
    return value is not None and value.weight is not None and value.dtype is DType.F32


def _fits(factor: np.ndarray) -> bool:
    size = np.abs(factor)
    return bool(np.isfinite(factor).all() and (size >= _LEAST).all() and (size <= _MOST).all())


def _operands(node: Node) -> list[tuple[Value, Value]]:
    """Return (constant, other) for each constant float32 operand of a binary node."""
    a, b = node.inputs
    return [(k, x) for k, x in ((a, b), (b, a)) if is_weight(k) and x is not None
            and x.weight is None]


def _along(value: Value, rank: int, axis: int, extent: int) -> np.ndarray | None:
    """Return a constant that varies along one axis only, as a vector of that extent."""
    shape = value.shape
    if len(shape) > rank or value.weight.size not in (1, extent):
        return None
    full = (1,) * (rank - len(shape)) + tuple(shape)
    if any(dim != 1 for k, dim in enumerate(full) if k != axis % rank):
        return None
    return np.broadcast_to(wide(value).reshape(-1), (extent,))


def _after_conv(node: Node, scene: Scene) -> Proposal | None:
    """Conv, then a Mul or Add of a constant per channel."""
    output = node.outputs[0]
    for value, x in _operands(node):
        conv = x.producer
        if conv is None or conv.op_type != "Conv" or conv.domain or not scene.is_closed(
                (conv, node), (output,)) or x.shape is None or output.shape != x.shape:
            continue
        weight = conv.inputs[1]
        bias = conv.inputs[2] if len(conv.inputs) > 2 else None
        if not is_weight(weight) or bias is not None and not is_weight(bias):
            continue
        channels = weight.shape[0]
        factor = _along(value, len(x.shape), 1, channels)
        if factor is None:
            continue
        made = _scaled(node.op_type, weight, bias, factor, channels, 0)
        if made is None:
            continue
        inputs = [conv.inputs[0], *made]
        return Proposal((conv, node), [make("Conv", inputs, output, conv.attrs, conv.name)])
    return None


def _scaled(op_type: str, weight: Value, bias: Value | None, factor: np.ndarray, outputs: int,
            axis: int) -> list[Value] | None:
    """Return weight and bias after a Mul or Add of `factor` along the weight's `axis`."""
    zero = np.zeros(outputs)
    given = (lambda: zero) if bias is None else (lambda: wide(bias))
    if op_type == "Add":
        return [weight, lazily((outputs,), lambda: given() + factor)]
    if not _fits(factor):
        return None
    by = factor.reshape([-1 if k == axis else 1 for k in range(len(weight.shape))])
    scaled = lazily(weight.shape, lambda: wide(weight) * by)
    return [scaled] if bias is None else [scaled, lazily((outputs,), lambda: wide(bias) * factor)]


def _after_gemm(node: Node, scene: Scene) -> Proposal | None:
    """Gemm with constant weights, then a Mul or Add of a constant per column."""
    output = node.outputs[0]
    for value, x in _operands(node):
        gemm = x.producer
        if gemm is None or gemm.op_type != "Gemm" or gemm.domain or not scene.is_closed(
                (gemm, node), (output,)) or output.shape != x.shape:
            continue
        weight = gemm.inputs[1]
        bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
        if not is_weight(weight) or bias is not None and not is_weight(bias):
            continue
        axis = 0 if gemm.attrs.get("transB", 0) else 1
        columns = weight.shape[axis]
        if bias is not None and bias.shape != (columns,):
            continue
        if gemm.attrs.get("beta", 1.0) != 1.0 or value.weight.size > columns:
            continue
        factor = _along(value, 2, 1, columns)
        made = factor is not None and _scaled(node.op_type, weight, bias, factor, columns, axis)
        if made:
            return Proposal((gemm, node), [make("Gemm", [gemm.inputs[0], *made], output,
                                                gemm.attrs, gemm.name)])
    return None


def _matmul(value: Value) -> Node | None:
    """Return the MatMul by a constant matrix that writes a value."""
    node = value.producer
    if node is None or node.op_type != "MatMul" or node.domain or not is_weight(node.inputs[1]):
        return None
    return node if len(node.inputs[1].shape) == 2 and node.inputs[0].weight is None else None


def _after_matmul(node: Node, scene: Scene) -> Proposal | None:
    """MatMul by a constant, then a Mul of a constant per column."""
    output = node.outputs[0]
    for value, x in _operands(node):
        matmul = _matmul(x)
        if matmul is None or x.shape is None or output.shape != x.shape:
            continue
        if not scene.is_closed((matmul, node), (output,)):
            continue
        weight = matmul.inputs[1]
        factor = _along(value, len(x.shape), len(x.shape) - 1, weight.shape[1])
        made = factor is not None and _scaled("Mul", weight, None, factor, weight.shape[1], 1)
        if made:
            return Proposal((matmul, node), [make("MatMul", [matmul.inputs[0], *made], output, {},
                                                  matmul.name)])
    return None


def _before_matmul(node: Node, scene: Scene) -> Proposal | None:
    """A Mul of a constant per column, then MatMul by a constant."""
    output, weight = node.outputs[0], node.inputs[1]
    scale = before(node, "Mul")
    if scale is None or not is_weight(weight) or len(weight.shape) != 2:
        return None
    middle = node.inputs[0]
    if not scene.is_closed((scale, node), (output,)):
        return None
    for value, x in _operands(scale):
        if x.shape is None or x.shape != middle.shape or len(x.shape) < 2:
            continue
        factor = _along(value, len(x.shape), len(x.shape) - 1, weight.shape[0])
        made = factor is not None and _scaled("Mul", weight, None, factor, weight.shape[0], 0)
        if made:
            return Proposal((scale, node), [make("MatMul", [x, *made], output, {}, node.name)])
    return None


def _scaled_pair(node: Node, scene: Scene) -> Proposal | None:
    """MatMul of two values that are both scaled by a number: the smaller one is, by both."""
    output, scales = node.outputs[0], [before(node, "Mul", k) for k in (0, 1)]
    if None in scales or scales[0] is scales[1] or not scene.is_closed((*scales, node), (output,)):
        return None
    found = []
    for scale, middle in zip(scales, node.inputs, strict=True):
        pairs = [(value, x) for value, x in _operands(scale)
                 if value.weight.size == 1 and x.shape == middle.shape and x.shape is not None]
        if not pairs:
            return None
        found.append(pairs[0])
    (first, a), (second, b) = found
    product = wide(first).reshape(()) * wide(second).reshape(())
    if not _fits(product):
        return None
    smaller = a if elements(a) <= elements(b) else b
    middle = Value("", DType.F32, smaller.shape)
    mul = make("Mul", [smaller, constant(product, DType.F32)], middle)
    inputs = [middle, b] if smaller is a else [a, middle]
    return Proposal((*scales, node), [mul, make("MatMul", inputs, output, {}, node.name)])


def _norm_to_linear(node: Node, scene: Scene) -> Proposal | None:
    """LayerNormalization, a constant matrix and a constant bias: the norm's scale and bias go into
    those. Not into large matrices, whose copies would cost more than this saves."""
    output = node.outputs[0]
    for bias, x in _operands(node):
        matmul = _matmul(x)
        norm = before(matmul, "LayerNormalization") if matmul is not None else None
        if norm is None or len(norm.inputs) < 3 or any(v is not None for v in norm.outputs[1:]):
            continue
        weight, (scale, shift) = matmul.inputs[1], norm.inputs[1:3]
        columns = (weight.shape[1],)
        if not (is_weight(scale) and is_weight(shift)) or weight.weight.nbytes > _LARGEST:
            continue
        if scale.shape != weight.shape[:1] or scale.shape != shift.shape or bias.shape != columns:
            continue
        if output.shape != x.shape or not scene.is_closed((norm, matmul, node), (output,)):
            continue
        made = _scaled("Mul", weight, None, wide(scale), columns[0], 0)
        if made is None or not is_available(norm.op_type, scene.opset):
            continue
        added = lazily(columns, functools.partial(_moved, bias, shift, weight))
        ones = constant(np.ones(scale.shape, np.float32), DType.F32)
        middle, product = Value("", DType.F32, norm.outputs[0].shape), Value("", DType.F32, x.shape)
        return Proposal((norm, matmul, node), [
            make(norm.op_type, [norm.inputs[0], ones], middle, norm.attrs),
            make("MatMul", [middle, *made], product),
            make("Add", [product, added], output, {}, node.name)])
    return None


def _moved(bias: Value, shift: Value, weight: Value) -> np.ndarray:
    """Return the bias behind a matrix that `shift` before it amounts to, and `bias`."""
    return wide(bias) + wide(shift) @ wide(weight)


def _before_conv(node: Node, scene: Scene) -> Proposal | None:
    """A Mul of a constant per channel, then Conv of one group: padding stays zero."""
    output, weight = node.outputs[0], node.inputs[1]
    scale = before(node, "Mul")
    if scale is None or not is_weight(weight) or node.attrs.get("group", 1) != 1:
        return None
    if not scene.is_closed((scale, node), (output,)):
        return None
    for value, x in _operands(scale):
        if x.shape is None or x.shape != node.inputs[0].shape:
            continue
        factor = _along(value, len(x.shape), 1, weight.shape[1])
        made = factor is not None and _scaled("Mul", weight, None, factor, weight.shape[1], 1)
        if made:
            inputs = [x, *made, *node.inputs[2:]]
            return Proposal((scale, node), [make("Conv", inputs, output, node.attrs, node.name)])
    return None


def _pad_into_window(node: Node, scene: Scene) -> Proposal | None:
    """Pad with zeros along spatial axes, then Conv, or AveragePool that counts the padding."""
    pad, output = before(node, "Pad"), node.outputs[0]
    if pad is None or not scene.is_closed((pad, node), (output,)):
        return None
    pads, x = ints(pad, "pads", 1), pad.inputs[0]
    if pads is None or x is None or x.shape is None or pad.attrs.get("mode", "constant") != (
            "constant") or len(pad.inputs) > 3 and pad.inputs[3] is not None:
        return None
    fill = pad.attrs.get("value", 0.0) if scene.opset < _PAD_INPUT else 0.0
    if scene.opset >= _PAD_INPUT and len(pad.inputs) > 2 and pad.inputs[2] is not None:
        fill = uniform(pad.inputs[2])
    rank = len(x.shape)
    if fill != 0 or len(pads) != 2 * rank or min(pads) < 0:
        return None
    if any((*pads[:2], *pads[rank:rank + 2])):
        return None
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    has = list(node.attrs.get("pads") or [0] * (2 * rank - 4))
    if node.op_type == "AveragePool":
        inner = node.attrs.get("count_include_pad", 0) or not any(has)
        if not inner or node.attrs.get("ceil_mode", 0) or any(
                a >= k for a, k in zip(pads[2:rank], node.attrs["kernel_shape"], strict=True)):
            return None
    more = pads[2:rank] + pads[rank + 2:]
    attrs = {**node.attrs, "pads": [a + b for a, b in zip(has, more, strict=True)]}
    attrs.pop("auto_pad", None)
    if node.op_type == "AveragePool":
        attrs["count_include_pad"] = 1
        half = len(more) // 2
        if any(max(a, b) >= k for a, b, k in zip(attrs["pads"][:half], attrs["pads"][half:],
                                                node.attrs["kernel_shape"], strict=True)):
            return None
    return Proposal((pad, node), [make(node.op_type, [x, *node.inputs[1:]], output, attrs,
                                       node.name)])


def _rule(name: str, roots: str, propose, about: str,
          exactness: Exactness = Exactness.ROUNDING) -> Rule:
    return Rule(name, frozenset(roots.split()), exactness, about, propose)


RULES = [
    _rule("after-conv", "Mul Add", _after_conv, "Conv takes in a constant Mul or Add per channel"),
    _rule("after-gemm", "Mul Add", _after_gemm, "Gemm takes in a constant Mul or Add per column"),
    _rule("after-matmul", "Mul", _after_matmul, "a constant matrix takes in a Mul per column"),
    _rule("before-matmul", "MatMul", _before_matmul,
          "a constant matrix takes in a Mul per column of what it multiplies"),
    _rule("scaled-pair", "MatMul", _scaled_pair,
          "MatMul of two values scaled by numbers scales the smaller one by both"),
    _rule("norm-to-linear", "Add", _norm_to_linear,
          "LayerNormalization's scale and bias go into the linear layer that alone reads it"),
    _rule("before-conv", "Conv", _before_conv,
          "Conv takes in a constant Mul per channel of its input"),
    _rule("pad-into-window", "Conv AveragePool", _pad_into_window,
          "Pad with zeros before Conv or AveragePool is their own padding", Exactness.EXACT),
]
