"""What ONNX Runtime does with operators when it is left alone: the facts that the default policy needs.

Read off the graphs that ONNX Runtime 1.19 to 1.31 saves with ENABLE_ALL on the CPU.
"""

from __future__ import annotations

from onnx_fusion.graph.model import Node

BLOCKED = frozenset(
    "Conv MaxPool AveragePool GlobalAveragePool GlobalMaxPool BatchNormalization Relu LeakyRelu Clip Sigmoid "
    "Tanh HardSigmoid HardSwish Gelu QuickGelu Swish Add Sum Mul Concat Resize Upsample".split()
)
"""Operators that stay in the channel-blocked layout of a convolution next to them."""

ACTIVATIONS = frozenset("Relu LeakyRelu Clip Sigmoid Tanh HardSigmoid HardSwish".split())

FUSED_PAIRS: dict[str, frozenset[str]] = {
    "Conv": ACTIVATIONS | {"BatchNormalization", "Add", "Mul"},
    "ConvTranspose": frozenset({"BatchNormalization"}),
    "BatchNormalization": ACTIVATIONS | {"Add"},
    "Gemm": ACTIVATIONS,
    "MatMul": frozenset({"Add", "Mul", "Div", "BatchNormalization"}),
    "Add": frozenset({"LayerNormalization", "Relu", "Gelu", "Add"}),
    "Transpose": frozenset({"MatMul"}),
    "Cast": frozenset({"Cast"}),
    "Reshape": frozenset({"Reshape"}),
    "Sigmoid": frozenset({"Mul"}),
    "Erf": frozenset({"Add"}),
    "Div": frozenset({"Erf"}),
    "Pad": frozenset({"Conv", "MaxPool", "AveragePool"}),
}
"""Pairs that ONNX Runtime merges into one kernel: producer, and the consumers it takes in."""


QUANTIZED = frozenset(
    ("Conv", "MatMul", "Gemm", "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool",
     "LeakyRelu", "Sigmoid", "Softmax", "Where")
)  # fmt: skip
"""Operators that have a kernel on 8-bit integers, which takes DequantizeLinear before it in."""


def runs_on_integers(node: Node) -> bool:
    """Return whether ONNX Runtime runs the node on the integers its inputs were made of."""
    sources = [v.producer for v in node.inputs if v is not None]
    return node.op_type in QUANTIZED and any(
        n is not None and n.op_type == "DequantizeLinear" for n in sources
    )


RENAMES = frozenset(("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"))
"""Operators that give a value another shape without copying it."""


def renames(node: Node) -> bool:
    """Return whether ONNX Runtime runs the node without touching an element."""
    return node.op_type in RENAMES and not node.domain


def fuses(producer: Node, consumer: Node) -> bool:
    """Return whether ONNX Runtime makes one kernel of this pair."""
    if producer.op_type == "DequantizeLinear":
        return consumer.op_type in QUANTIZED
    if consumer.op_type == "QuantizeLinear":
        return runs_on_integers(producer)
    return consumer.op_type in FUSED_PAIRS.get(producer.op_type, ())


def is_blocked(node: Node) -> bool:
    """Return whether the node can work in a channel-blocked layout: a 4-D value and a known operator."""
    value = node.outputs[0]
    return (
        node.op_type in BLOCKED
        and value is not None
        and value.shape is not None
        and len(value.shape) == 4
    )
