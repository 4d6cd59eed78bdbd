"""What ONNX Runtime does with operators when it is left alone: the facts that the default policy
needs.

Read off the graphs that ONNX Runtime 1.19 to 1.31 saves with ENABLE_ALL on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx_fusion.graph.model import Node

BLOCKED = frozenset((
    "Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization",
    "Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Gelu", "QuickGelu",
    "Swish", "Add", "Sum", "Mul", "Concat", "Resize", "Upsample",
))  # fmt: skip
"""Operators that stay in the channel-blocked layout of a convolution next to them."""

WINDOWS = frozenset(
    ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
)
"""Those that are there for it; the others follow where all they read is blocked."""

ACTIVATIONS = frozenset(
    ("Relu", "LeakyRelu", "Clip", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish")
)

FUSED_PAIRS: dict[str, frozenset[str]] = {
    "Conv": ACTIVATIONS | {"BatchNormalization", "Add", "Mul"},
    "ConvTranspose": frozenset({"BatchNormalization"}),
    "BatchNormalization": ACTIVATIONS | {"Add"},
    "Gemm": ACTIVATIONS,
    "MatMul": frozenset({"Add", "Mul", "Div", "BatchNormalization"}),
    "Add": frozenset({"LayerNormalization", "Relu", "Gelu"}),
    "Transpose": frozenset({"MatMul"}),
    "Cast": frozenset({"Cast"}),
    "Reshape": frozenset({"Reshape"}),
    "Sigmoid": frozenset({"Mul"}),
    "Erf": frozenset({"Add"}),
    "Div": frozenset({"Erf"}),
    "Pad": frozenset({"Conv", "MaxPool", "AveragePool"}),
}
"""Pairs that ONNX Runtime merges into one kernel: producer, and the consumers it takes in."""

TAKEN_IN = frozenset(("Pad", "Transpose"))
"""Producers that such a kernel takes in instead: it is the consumer's, and they cost nothing."""


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


KEPT = frozenset(("LayerNormalization", "Gelu"))
"""Operators that ONNX Runtime recognises where a model spells them out."""


def apart(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that ONNX Runtime runs for these: those that passes replaced, each once.

    Of several nodes that a rewriting made the last has them all.
    """
    found: dict[tuple[str, ...], Node] = {}
    stack = list(reversed(nodes))
    while stack:
        node = stack.pop()
        parts = [part for part in node.parts if part is not node]
        if parts and node.op_type not in KEPT and all(part.proto or part.parts for part in parts):
            stack.extend(reversed(parts))
        elif node.proto is not None or node.parts:
            found.setdefault(tuple(v.name for v in node.outputs if v is not None), node)
    return list(found.values())


def fuses(producer: Node, consumer: Node) -> bool:
    """Return whether ONNX Runtime makes one kernel of this pair.

    What others read too is written for itself. A product takes in constants only, and transposes of
    its two last axes; a window takes in constant padding.
    """
    if producer.op_type == "DequantizeLinear":
        return consumer.op_type in QUANTIZED
    if consumer.op_type == "QuantizeLinear":
        return runs_on_integers(producer)
    if consumer.op_type not in FUSED_PAIRS.get(producer.op_type, ()):
        return False
    value = producer.outputs[0]
    if value is not None and len(value.consumers) > 1:
        return False
    if producer.op_type == "MatMul":
        return any(v is not None and v.weight is not None for v in consumer.inputs)
    if producer.op_type == "Transpose":
        kept = [int(axis) for axis in producer.attrs.get("perm", ())][:-2]
        return kept == list(range(len(kept)))
    if producer.op_type == "Pad":
        return producer.attrs.get("mode", "constant") == "constant"
    return consumer.op_type != "Relu" or producer.op_type != "Add" or is_blocked(consumer)


def named(node: Node, producers: Sequence[Node]) -> str:
    """Return the op_type of the kernel that runs a node fused to one of these."""
    pairs = ((producer.op_type, node.op_type) for producer in producers)
    return next((PAIRS[pair] for pair in pairs if pair in PAIRS), node.op_type)


PAIRS = {
    ("Add", "LayerNormalization"): "SkipLayerNormalization",
    ("Conv", "BatchNormalization"): "Identity",
    ("ConvTranspose", "BatchNormalization"): "Identity",
    ("MatMul", "BatchNormalization"): "Identity",
}
"""Pairs of which the consumer takes more or less than it does by itself."""


def slides(node: Node) -> bool:
    """Return whether the node is a window over a 4-D image, for which ONNX Runtime blocks
    channels."""
    return node.op_type in WINDOWS and _makes_image(node)


def _makes_image(node: Node) -> bool:
    value = node.outputs[0]
    return value is not None and value.shape is not None and len(value.shape) == 4


def blocked(nodes: Sequence[Node]) -> set[Node]:
    """Return those of the nodes that work in the blocked layout: windows, and what reads only such
    values."""
    found: set[Node] = set()
    names: set[str] = set()
    for node in nodes:
        sources = [v for v in node.inputs if v is not None and v.weight is None]
        if slides(node) or (is_blocked(node) and sources and all(v.name in names for v in sources)):
            found.add(node)
            names.update(v.name for v in node.outputs if v is not None)
    return found


def is_blocked(node: Node) -> bool:
    """Return whether the node can work in a channel-blocked layout: a 4-D value and a known
    operator."""
    return node.op_type in BLOCKED and _makes_image(node)
