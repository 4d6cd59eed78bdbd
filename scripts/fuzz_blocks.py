"""Groups of operators as exporters write them, for scripts/fuzz.py: each function adds one."""

from __future__ import annotations

import numpy as np
from fuzz_graphs import Grower, Rejected
from onnx import TensorProto, helper


def number(g: Grower, x: str, value: float) -> str:
    return g.constant(np.asarray(value, g.of(x).dtype))


def shape_of(g: Grower, x: str, axis: int, index: str | None = None) -> str:
    """Return an extent as exporters of dynamic models compute it, as one-element vector."""
    found = g.add("Gather", [g.add("Shape", [x]), index or g.constant(np.int64(axis))], axis=0)
    if g.opset < 13:
        return g.add("Unsqueeze", [found], axes=[0])
    return g.add("Unsqueeze", [found, g.ints(0)])


def mean(g: Grower, x: str, axes: list[int], op_type: str = "ReduceMean") -> str:
    if g.opset < 18:
        return g.add(op_type, [x], axes=axes, keepdims=1)
    return g.add(op_type, [x, g.ints(*axes)], keepdims=1)


def activation(g: Grower, x: str | None = None) -> str:
    x = x or g.value("f")
    kind = g.number(0, 6)
    if kind == 0:
        half = g.add("Mul", [x, number(g, x, 0.5)])
        inner = g.add("Erf", [g.add("Div", [x, number(g, x, 2**0.5)])])
        return g.add("Mul", [half, g.add("Add", [inner, number(g, x, 1)])])
    if kind == 1:
        cube = g.add("Pow", [x, number(g, x, 3)])
        inner = g.add("Add", [x, g.add("Mul", [cube, number(g, x, 0.044715)])])
        tanh = g.add("Tanh", [g.add("Mul", [inner, number(g, x, 0.7978846)])])
        outer = g.add("Mul", [x, g.add("Add", [tanh, number(g, x, 1)])])
        return g.add("Mul", [outer, number(g, x, 0.5)])
    if kind == 2:
        return g.add("Mul", [x, g.add("Sigmoid", [x])])
    if kind == 3:
        return g.add("Mul", [g.add("HardSigmoid", [x], alpha=1 / 6, beta=0.5), x])
    if kind == 4:
        six = g.add("Min", [g.add("Relu", [g.add("Add", [x, number(g, x, 3)])]), number(g, x, 6)])
        return g.add("Div", [g.add("Mul", [x, six]), number(g, x, 6)])
    if kind == 5:
        return g.add("Mul", [x, g.add("Tanh", [g.add("Softplus", [x])])])
    return g.add(g.pick(["Relu", "LeakyRelu", "Elu"]), [x])


def norm(g: Grower) -> str:
    """A decomposed layer norm, RMS norm, instance norm or L2 norm."""
    x = g.value("f", 2)
    rank = g.of(x).ndim
    axes = g.pick([[-1], [-1], [rank - 1], list(range(1, rank)), [1], [rank - 2]])
    kind = g.number(0, 3)
    if kind == 0:
        length = g.add("Sqrt", [mean(g, g.add("Mul", [x, x]), axes)])
        return g.add("Div", [x, g.add("Max", [length, number(g, x, 1e-6)])])
    if kind == 1:
        square = mean(g, g.add("Pow", [x, number(g, x, 2)]), axes)
        root = g.add("Sqrt", [g.add("Add", [square, number(g, x, 1e-5)])])
        made = g.add("Mul", [x, g.add("Reciprocal", [root])])
    else:
        less = g.add("Sub", [x, mean(g, x, axes)])
        power = g.add("Pow", [less, number(g, x, 2)]) if kind == 2 else g.add("Mul", [less, less])
        root = g.add("Sqrt", [g.add("Add", [mean(g, power, axes), number(g, x, 1e-5)])])
        made = g.add("Div", [less, root])
    scaled = g.add("Mul", [made, g.operand(g.of(x).shape[-1:], g.of(x).dtype)])
    return g.add("Add", [scaled, g.operand(g.of(x).shape[-1:], g.of(x).dtype)])


def attention(g: Grower) -> str:
    """Multi-head attention on [B, S, H*D], with a mask or scores' bias, as torch exports it."""
    x = g.value("f", 3, 3)
    batch, length, width = g.of(x).shape
    heads = g.pick([h for h in (1, 2, 3, 4) if width % h == 0])
    dtype = g.of(x).dtype
    dynamic = g.chance(0.5)

    def split(y: str, flip: bool) -> str:
        if dynamic:
            sizes = [shape_of(g, x, 0), shape_of(g, x, 1), g.ints(heads), g.ints(width // heads)]
            target = g.add("Concat", sizes, axis=0)
        else:
            target = g.ints(g.pick([0, batch]), -1, heads, width // heads)
        perm = [0, 2, 3, 1] if flip else [0, 2, 1, 3]
        return g.add("Transpose", [g.add("Reshape", [y, target])], perm=perm)

    def project(y: str) -> str:
        z = g.add("MatMul", [y, g.operand((width, width), dtype)])
        return g.add("Add", [z, g.operand((width,), dtype)]) if g.chance(0.7) else z

    query, key, value = project(x), project(x), project(x)
    if g.chance(0.5):
        query = g.add("Div", [query, number(g, x, (width / heads) ** 0.5)])
    scores = g.add("MatMul", [split(query, False), split(key, True)])
    kind = g.number(0, 3)
    if kind == 1:
        shape = g.pick([(batch, 1, 1, length), (1, 1, length, length), (batch, heads, length, 1)])
        scores = g.add("Add", [scores, g.operand(shape, dtype, 0.3)])
    elif kind == 2:
        test = g.operand((batch, 1, 1, length), np.bool_, 0.1)
        scores = g.add("Where", [test, scores, number(g, x, g.pick([-np.inf, -1e9, -10000]))])
    elif kind == 3:
        scores = g.add("Mul", [scores, number(g, x, 0.25)])
    if g.opset < 13 and g.chance(0.3):
        rows = g.add("Softmax", [scores], axis=3)
    else:
        rows = g.add("Softmax", [scores], axis=g.pick([-1, -1, -1, 3, 2]))
    mixed = g.add("Transpose", [g.add("MatMul", [rows, split(value, False)])], perm=[0, 2, 1, 3])
    joined = g.add("Reshape", [mixed, g.ints(0, 0, width) if g.chance(0.5)
                               else g.ints(batch, length, width)])
    return g.add("Add", [g.add("MatMul", [joined, g.operand((width, width), dtype)]), x])


def image_block(g: Grower) -> str:
    """Convolution, statistics, activation, perhaps squeeze-and-excite, perhaps a residual."""
    x = g.value("f", 4, 4)
    a = g.of(x)
    channels = a.shape[1]
    deep = g.chance(0.4)
    out = channels if deep or g.chance(0.5) else g.pick([1, 3, 4, 8, 16, 20, 32])
    size = g.pick([1, 3, 3, 5])
    stride = g.pick([1, 1, 1, 2])
    w = g.constant(g.data((out, 1 if deep else channels, size, size), a.dtype))
    bias = [g.constant(g.data((out,), a.dtype))] if g.chance(0.5) else []
    y = g.add("Conv", [x, w, *bias], group=channels if deep else 1, strides=[stride] * 2,
              pads=[size // 2] * 4)
    if g.chance(0.5):
        three = [g.constant(g.data((out,), a.dtype)) for _ in range(3)]
        y = g.add("BatchNormalization",
                  [y, *three, g.constant(np.abs(g.data((out,), a.dtype)) + 0.1)])
    if g.chance(0.7):
        y = activation(g, y)
    if g.chance(0.3):
        pooled = (g.add("GlobalAveragePool", [y]) if g.chance(0.5) else mean(g, y, [2, 3]))
        down = g.constant(g.data((4, out, 1, 1), a.dtype))
        up = g.constant(g.data((out, 4, 1, 1), a.dtype))
        gate = g.add("Conv", [g.add("Relu", [g.add("Conv", [pooled, down])]), up])
        y = g.add("Mul", [y, g.add(g.pick(["Sigmoid", "HardSigmoid"]), [gate])])
    if g.of(y).shape == a.shape and g.chance(0.6):
        y = g.add("Add", [y, x])
    return y


def branches(g: Grower) -> str:
    """An inception block: branches of one image side by side."""
    x = g.value("f", 4, 4)
    a, made = g.of(x), []
    for _ in range(g.number(2, 3)):
        w = g.constant(g.data((g.pick([1, 2, 4, 8]), a.shape[1], *[g.pick([1, 3])] * 2), a.dtype))
        y = g.add("Conv", [x, w], auto_pad="SAME_UPPER")
        made.append(g.add("Relu", [y]) if g.chance(0.7) else y)
    if g.chance(0.5):
        made.append(g.add("MaxPool", [x], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]))
    return g.add("Concat", made, axis=1)


def tensorflow_image(g: Grower) -> str:
    """A convolution of NHWC images between two Transposes, as tf2onnx writes it."""
    x = g.value("f", 4, 4)
    a = g.of(x)
    first = g.add("Transpose", [x], perm=[0, 3, 1, 2])
    w = g.constant(g.data((g.pick([2, 4, 8]), a.shape[3], 3, 3), a.dtype))
    y = g.add("Conv", [first, w], auto_pad="SAME_UPPER", strides=[g.pick([1, 2])] * 2)
    y = g.add("Transpose", [y], perm=[0, 2, 3, 1])
    y = g.add("Add", [y, g.constant(g.data(g.of(y).shape[-1:], a.dtype))])
    return activation(g, y)


def shuffle(g: Grower) -> str:
    x = g.value("f", 4, 4)
    n, c, h, w = g.of(x).shape
    groups = g.pick([d for d in (2, 3, 4, c) if c % d == 0])
    y = g.add("Reshape", [x, g.ints(n, groups, c // groups, h, w)])
    y = g.add("Transpose", [y], perm=[0, 2, 1, 3, 4])
    return g.add("Reshape", [y, g.ints(n, c, h, w) if g.chance(0.5) else g.ints(n, -1, h, w)])


def focus(g: Grower) -> str:
    """Every second pixel, four times, side by side (YOLOv5's first layer)."""
    x = g.value("f", 4, 4)
    big = g.ints(2**31 - 1)
    parts = []
    for top in (0, 1):
        for left in (0, 1):
            y = g.add("Slice", [x, g.ints(top), big, g.ints(2), g.ints(2)])
            parts.append(g.add("Slice", [y, g.ints(left), big, g.ints(3), g.ints(2)]))
    return g.add("Concat", parts, axis=1)


def rotary(g: Grower) -> str:
    x = g.value("f", 2)
    half = g.of(x).shape[-1] // 2
    if not half:
        raise Rejected("nothing to rotate")
    first = g.add("Slice", [x, g.ints(0), g.ints(half), g.ints(-1)])
    second = g.add("Slice", [x, g.ints(half), g.ints(2 * half), g.ints(-1)])
    turned = g.add("Concat", [g.add("Neg", [second]), first], axis=-1)
    extents = g.of(turned).shape[-2:]
    one = g.add("Mul", [g.add("Slice", [x, g.ints(0), g.ints(2 * half), g.ints(-1)]),
                        g.operand(extents, g.of(x).dtype)])
    return g.add("Add", [one, g.add("Mul", [turned, g.operand(extents, g.of(x).dtype)])])


def dynamic_fill(g: Grower) -> str:
    """Extents computed from another value's shape, and what is filled or broadcast to them."""
    x = g.value("f", 1, 4)
    shape = g.add("Shape", [x])
    kind = g.number(0, 3)
    if kind == 0:
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.5])
        y = g.add("ConstantOfShape", [shape], value=value)
        return g.add("Add", [y, x]) if g.of(x).dtype == np.float32 else y
    if kind == 1:
        return g.add("Expand", [number(g, x, 1.5), shape])
    if kind == 2:
        last = shape_of(g, x, g.of(x).ndim - 1)
        flat = g.add("Reshape", [x, g.add("Concat", [g.ints(-1), last], axis=0)])
        return g.add("Reshape", [g.add("Relu", [flat]), shape])
    size = g.add("Gather", [shape, g.constant(np.int64(-1))])
    zero, one = g.constant(np.int64(0)), g.constant(np.int64(1))
    line = g.add("Range", [zero, size, one])
    line = g.add("Cast", [line], to=helper.np_dtype_to_tensor_dtype(g.of(x).dtype))
    return g.add("Mul", [x, g.add("Div", [line, number(g, x, 7)])])


def causal(g: Grower) -> str:
    """A causal mask of the last two axes out of Range and comparison, or Trilu."""
    x = g.value("f", 2)
    size = g.of(x).shape[-2:]
    zero, one = g.constant(np.int64(0)), g.constant(np.int64(1))
    row = g.add("Range", [zero, g.constant(np.int64(size[0])), one])
    column = g.add("Range", [zero, g.constant(np.int64(size[1])), one])
    row = g.add("Reshape", [row, g.ints(-1, 1)])
    test = g.add("LessOrEqual", [column, row]) if g.opset >= 12 else g.add("Less", [column, row])
    return g.add("Where", [test, x, number(g, x, -1e4)])


def quantized(g: Grower) -> str:
    """What passes through 8 bits and back."""
    x = g.value("f", 1)
    if g.of(x).dtype != np.float32:
        raise Rejected("not float32")
    g.need_numbers(x)
    if g.chance(0.3):
        parts = g.add("DynamicQuantizeLinear", [x], 3)
        return g.add("DequantizeLinear", parts)
    scale = g.constant(np.float32(0.05))
    zero = g.constant(g.pick([np.uint8(128), np.int8(0), np.int8(3)]))
    y = g.add("QuantizeLinear", [x, scale, zero])
    return g.add("DequantizeLinear", [y, scale, zero])


def half_island(g: Grower) -> str:
    x = g.value("f")
    y = g.add("Cast", [x], to=TensorProto.FLOAT16)
    y = g.add(g.pick(["Relu", "Add", "Sigmoid"]), [y])if g.chance(0.5) else g.add("Mul", [y, y])
    return g.add("Cast", [y], to=helper.np_dtype_to_tensor_dtype(g.of(x).dtype))


def sequences(g: Grower) -> str:
    """A list of tensors, and what is joined or taken out of it."""
    x = g.value("f", 1)
    y = g.add("Tanh", [x])
    made, out = [g.name() for _ in range(2)]
    nodes = [helper.make_node("SequenceConstruct", [x, y, x], [made])]
    if g.chance(0.5):
        nodes.append(helper.make_node("ConcatFromSequence", [made], [out], axis=0))
    else:
        nodes.append(helper.make_node("SequenceAt", [made, g.constant(np.int64(-2))], [out]))
    g.add_nodes(nodes, [out])
    return out


def picked(g: Grower) -> str:
    """Places found in the data: NonZero, GatherND, ArgMax, OneHot."""
    x = g.value("f", 1, 3)
    if g.chance(0.5):
        found = g.add("NonZero", [g.add("Greater", [x, number(g, x, 0)])])
        return g.add("GatherND", [x, g.add("Transpose", [found], perm=[1, 0])])
    g.need_numbers(x)
    best = g.add("ArgMax", [x], axis=-1, keepdims=0)
    values = g.constant(np.array([0, 1], g.of(x).dtype))
    depth = g.constant(np.int64(g.of(x).shape[-1]))
    return g.add("Mul", [x, g.add("OneHot", [best, depth, values], axis=-1)])


def recurrent(g: Grower) -> str:
    x = g.value("f", 3, 3)
    if g.of(x).dtype != np.float32:
        raise Rejected("not float32")
    size, kind = g.pick([1, 4, 8]), g.pick(["LSTM", "GRU", "RNN"])
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    directions = g.number(1, 2)
    w = g.operand((directions, gates * size, g.of(x).shape[2]))
    r = g.operand((directions, gates * size, size))
    y = g.add(kind, [x, w, r], 1, hidden_size=size,
              direction="bidirectional" if directions == 2 else "forward")
    return g.add("Squeeze", [y, g.ints(1)] if g.opset >= 13 else [y],
                 **({} if g.opset >= 13 else {"axes": [1]})) if directions == 1 else y


def perceptron(g: Grower) -> str:
    x = g.value("f", 2, 3)
    dtype, width = g.of(x).dtype, g.of(x).shape[-1]
    inner = g.pick([1, 4, 16, 48])
    y = g.add("MatMul", [x, g.operand((width, inner), dtype, 0.95)])
    y = activation(g, g.add("Add", [y, g.operand((inner,), dtype, 0.95)]))
    y = g.add("MatMul", [y, g.operand((inner, width), dtype, 0.95)])
    return g.add("Add", [y, x]) if g.chance(0.5) else y


BLOCKS = (
    activation, activation, norm, norm, attention, attention, image_block, image_block,
    image_block, branches, tensorflow_image, shuffle, focus, rotary, dynamic_fill, dynamic_fill,
    causal, quantized, half_island, sequences, picked, recurrent, perceptron, perceptron,
)  # fmt: skip
