"""Folds BatchNormalization into the weights of the contraction before it, or its own.

    Conv -- [Add of a constant per channel] -- BatchNormalization   =   Conv with a bias
"""

from __future__ import annotations

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph import edit
from onnx_fusion.graph.model import Graph, Node, Value
from onnx_fusion.graph.weights import Weight
from onnx_fusion.ops.elementwise import is_scale_and_shift

_CONTRACTIONS = frozenset(("Conv", "ConvTranspose", "Gemm"))


def fold_batchnorm(graph: Graph) -> Graph:
    """Replace each Conv, ConvTranspose or Gemm with a BatchNormalization after it by one node;
    return `graph`. An Add of a constant per channel may stand between a convolution and the norm.

    With s = scale / sqrt(var + epsilon), the new weight is w * s and the new bias (b - mean) * s +
    bias (ONNX spec, BatchNormalization in inference mode), computed in float64 and rounded once.
    All of them must be constant float32 and the contraction's result have no other use. The new
    node has the contraction's op_type and attributes, new constants with made-up names, and both
    nodes as `parts`. Where there is no contraction, the new node is a BatchNormalization by s and
    bias - mean * s, of mean 0, variance 1 and epsilon 0: nothing is left to compute per channel.
    """
    for norm in list(graph.nodes):
        if norm.op_type != "BatchNormalization" or norm.domain or not _is_inference(norm):
            continue
        chain, more = _before(norm)
        folded = _fold(chain[0], norm, more) if chain and _takes(chain[0], chain[-1]) else None
        if folded is not None:
            _replace(graph, (*chain, norm), *folded)
        else:
            _simplify(graph, norm)
    edit.prune(graph)
    return graph


def _before(norm: Node) -> tuple[tuple[Node, ...], np.ndarray | None]:
    """Return what ends in a norm's input: a contraction, maybe an Add and its constant."""
    last = norm.inputs[0].producer
    if last is None or last.op_type != "Add" or last.domain or last.parts:
        return () if last is None else (last,), None
    if not _is_alone(last.outputs[0]):
        return (), None
    for value, other in (last.inputs, last.inputs[::-1]):
        bias = _constant(value)
        rank = len(last.outputs[0].shape or ())
        if bias is None or other is None or other.producer is None or rank < 3:
            continue
        full = (1,) * (rank - bias.ndim) + bias.shape
        if len(full) == rank and full[1] == bias.size and other.producer.op_type != "Gemm":
            return (other.producer, last), bias.reshape(-1)
    return (), None


def _is_alone(value: Value) -> bool:
    return not value.is_output and not value.captured and len(value.consumers) == 1


def _takes(source: Node, last: Node) -> bool:
    """Return whether what is folded, `last` at the end, alone reads a contraction's result."""
    alone = _is_alone(source.outputs[0]) and (source is last or _is_alone(last.outputs[0]))
    return alone and source.op_type in _CONTRACTIONS and not source.domain and not source.parts


def _simplify(graph: Graph, norm: Node) -> None:
    """Replace a norm whose statistics are constant float32 by one of mean 0 and variance 1."""
    statistics = [_constant(value) for value in norm.inputs[1:5]]
    if norm.parts or any(array is None or array.ndim != 1 for array in statistics):
        return
    scale, shift, mean, variance = statistics
    epsilon = norm.attrs.get("epsilon", 1e-5)
    if len({array.shape for array in statistics}) != 1 or is_scale_and_shift(norm):
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        folded = _round(factor, shift - mean * factor)
    if folded is None:
        return
    arrays = (*folded, np.zeros(scale.shape, np.float32), np.ones(scale.shape, np.float32))
    names = ("scale", "bias", "mean", "variance")
    output = norm.outputs[0]
    inputs = [edit.add_constant(graph, f"{output.name}_{name}", Weight.of(array))
              for name, array in zip(names, arrays, strict=True)]
    new = Node(norm.op_type, "", norm.name, [norm.inputs[0], *inputs], [output],
               {**norm.attrs, "epsilon": 0.0}, norm.origin, None, (norm,))
    edit.replace(graph, (norm,), new)


def _is_inference(norm: Node) -> bool:
    extra = [value for value in norm.outputs[1:] if value is not None]
    return not norm.attrs.get("training_mode", 0) and norm.attrs.get("spatial", 1) == 1 and not any(
        value.consumers or value.is_output for value in extra)


def _fold(source: Node, norm: Node,
          more: np.ndarray | None) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the new (weight, bias), None if something they depend on is not constant float32.

    `more` is added to the contraction's own bias.
    """
    statistics = [_constant(value) for value in norm.inputs[1:5]]
    weight = _constant(source.inputs[1])
    given = source.inputs[2] if len(source.inputs) > 2 else None
    bias = np.zeros(()) if given is None else _constant(given)
    if weight is None or bias is None or any(array is None for array in statistics):
        return None
    scale, shift, mean, variance = statistics
    channels = scale.size
    if any(array.shape != (channels,) for array in statistics):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = scale / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    if source.op_type == "Gemm":
        folded = _fold_gemm(source, weight, bias, factor)
        if folded is None:
            return None
        weight, bias = folded
        return _round(weight, (bias - mean * factor) + shift)
    if bias.shape not in ((), (channels,)) or weight.ndim < 3:
        return None
    if more is not None:
        if more.shape not in ((1,), (channels,)):
            return None
        bias = bias + more
    if source.op_type == "Conv":
        if weight.shape[0] != channels:
            return None
        weight = weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))
    else:
        group = source.attrs.get("group", 1)
        if weight.shape[1] * group != channels or weight.shape[0] % group:
            return None
        by_group = weight.reshape((group, weight.shape[0] // group) + weight.shape[1:])
        factors = factor.reshape((group, 1, weight.shape[1]) + (1,) * (weight.ndim - 2))
        weight = (by_group * factors).reshape(weight.shape)
    return _round(weight, (bias - mean) * factor + shift)


def _fold_gemm(source: Node, weight: np.ndarray, bias: np.ndarray,
               factor: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return Gemm's weight and bias times the factor of each output column, None if C has rows."""
    transposed = source.attrs.get("transB", 0)
    if weight.ndim != 2:
        return None
    columns = weight.shape[0] if transposed else weight.shape[1]
    beta = float(np.float32(source.attrs.get("beta", 1.0)))
    if columns != factor.shape[0] or beta == 0.0:
        return None
    if bias.size not in (1, columns) or bias.shape[:-1] not in ((), (1,)):
        return None
    weight = weight * (factor[:, None] if transposed else factor[None, :])
    row = np.broadcast_to(bias.reshape(-1), factor.shape) * factor * beta
    return weight, row


def _round(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return both as float32, None if that does not hold them."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = weight.astype(np.float32), bias.astype(np.float32)
    return rounded if all(np.isfinite(array).all() for array in rounded) else None


def _constant(value: Value | None) -> np.ndarray | None:
    if value is None or value.weight is None or value.dtype is not DType.F32:
        return None
    return value.weight.array().astype(np.float64)


def _replace(graph: Graph, chain: tuple[Node, ...], weight: np.ndarray, bias: np.ndarray) -> None:
    source, output = chain[0], chain[-1].outputs[0]
    inputs = [source.inputs[0],
              edit.add_constant(graph, f"{output.name}_weight", Weight.of(weight)),
              edit.add_constant(graph, f"{output.name}_bias", Weight.of(bias))]
    attrs = {**source.attrs, "beta": 1.0} if source.op_type == "Gemm" else dict(source.attrs)
    new = Node(source.op_type, "", source.name, inputs, [output], attrs,
               frozenset().union(*(node.origin for node in chain)), None, chain)
    edit.replace(graph, chain, new)
