"""Says which values cannot be negative: what rules with square roots and logarithms need."""

from __future__ import annotations

from onnx_fusion.graph.model import Node, Value

_DEPTH = 6
_ALWAYS = frozenset((
    "Exp", "Abs", "Relu", "Sigmoid", "HardSigmoid", "Softmax", "Softplus", "Sqrt", "ReduceL1",
    "ReduceL2", "ReduceSumSquare", "Acos", "Cosh", "IsNaN"))
"""NaN aside, which is not negative either."""
_IF_ALL = frozenset((
    "Add", "Mul", "Div", "Sum", "Mean", "Min", "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin",
    "ReduceProd", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Expand", "Identity",
    "Slice", "Gather", "MaxPool", "AveragePool", "GlobalAveragePool", "Reciprocal", "Concat"))
_DATA_ONLY_FIRST = frozenset((
    "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "Reshape", "Squeeze",
    "Unsqueeze", "Expand", "Slice", "Gather", "Transpose", "Flatten", "Identity"))


def is_nonnegative(value: Value | None, depth: int = _DEPTH) -> bool:
    """True if no element can be below zero (-0.0 counts as zero); it looks back `depth` nodes.

    Integers wrap, so for them only constants count.
    """
    if value is None or value.dtype is None:
        return False
    if value.weight is not None:
        return value.dtype.numpy.kind in "fiub" and value.weight.size <= 1 << 20 and bool(
            (value.weight.array() >= 0).all()) and value.dtype.text != "bf16"
    node = value.producer
    if node is None or node.domain or depth == 0 or value.dtype.numpy.kind != "f":
        return False
    return node.op_type in _ALWAYS or _from_inputs(node, depth - 1)


def _from_inputs(node: Node, depth: int) -> bool:
    inputs = node.inputs[:1] if node.op_type in _DATA_ONLY_FIRST else node.inputs
    if node.op_type == "Mul" and len(inputs) == 2 and inputs[0] is inputs[1]:
        return True
    if node.op_type == "Max":
        return any(is_nonnegative(value, depth) for value in inputs)
    if node.op_type == "Clip":
        low = inputs[1] if len(inputs) > 1 else None
        return node.attrs.get("min", -1.0) >= 0 or is_nonnegative(low, depth)
    if node.op_type == "Pow" and node.inputs[1].weight is not None:
        exponent = node.inputs[1].weight
        return exponent.size == 1 and float(exponent.array().reshape(-1)[0]) % 2 == 0
    return node.op_type in _IF_ALL and all(is_nonnegative(value, depth) for value in inputs)
