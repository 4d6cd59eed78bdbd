"""Random small models made of the operator table's rows, for Hypothesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
from hypothesis import strategies as st
from ops_run import NEWEST_OPSET, build

from onnx_fusion.ops import activation, elementwise
from onnx_fusion.ops.pieces import slice_box
from onnx_fusion.ops.row import Row

MAX_ELEMENTS = 600
UNARY = [
    row for row in (*elementwise.ROWS, *activation.ROWS)
    if row.op_type not in
    ("Cast", "CastLike", "IsNaN", "IsInf", "Not", "BitwiseNot", "Swish", "Clip")
    and onnx.defs.get_schema(row.op_type, NEWEST_OPSET).max_input == 1
]  # fmt: skip
BINARY = ["Add", "Sub", "Mul", "Max", "Min", "Sum", "Mean", "PRelu"]
COMPARE = ["Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Equal"]
REDUCE = ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceL1", "ReduceL2",
          "ReduceSumSquare", "ReduceLogSumExp"]  # fmt: skip
Shape = tuple[int, ...]


@dataclasses.dataclass
class Maker:
    """A model in the making: nodes, constants, and the shapes of its float values so far."""

    draw: Callable
    shapes: dict[str, Shape] = dataclasses.field(default_factory=dict)
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    inputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    count: int = 0

    def number(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def pick(self, options: list) -> object:
        return options[self.number(0, len(options) - 1)]

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def floats(self, shape: Shape, low: float = -2.0, high: float = 2.0) -> np.ndarray:
        random = np.random.default_rng(self.count + 17 * len(self.constants))
        return np.asarray(random.uniform(low, high, shape), np.float32)

    def constant(self, value: np.ndarray) -> str:
        name = self.name()
        self.constants[name] = np.asarray(value)
        return name

    def operand(self, shape: Shape) -> str:
        """Return a constant, or a new input."""
        if self.number(0, 2):
            return self.constant(self.floats(shape))
        name = self.name()
        self.inputs[name] = self.floats(shape)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def add(self, op_type: str, inputs: list[str], shape: Shape | None, **attributes) -> str:
        """Add a node of one output; a value of a shape may be used again."""
        name = self.name()
        self.nodes.append(
            onnx.helper.make_node(op_type, inputs, [name], name=name + op_type, **attributes)
        )
        if shape is not None and np.prod(shape, dtype=int) <= MAX_ELEMENTS:
            self.shapes[name] = tuple(int(d) for d in shape)
        return name

    def value(self) -> tuple[str, Shape]:
        """Return a value made so far, the newest ones more often."""
        names = list(self.shapes)
        name = names[max(self.number(0, len(names) - 1), self.number(0, len(names) - 1))]
        return name, self.shapes[name]


def unary(m: Maker, x: str, shape: Shape) -> None:
    row: Row = m.pick(UNARY)
    low, high = (m.constant(np.float32(v)) for v in row.sample)
    m.add(row.op_type, [m.add("Clip", [x, low, high], None)], shape)


def binary(m: Maker, x: str, shape: Shape) -> None:
    op_type = m.pick(BINARY)
    same = [n for n, s in m.shapes.items() if s == shape]
    other = m.pick(same) if m.number(0, 1) else None
    if other is None:
        keep = [d if m.number(0, 2) else 1 for d in shape]
        other = m.operand(tuple(keep[m.number(0, len(keep)) if keep else 0 :]))
    if op_type == "Mul":
        x = m.add("Tanh", [x], None)
    pair = [x, other] if op_type == "PRelu" or m.number(0, 1) else [other, x]
    m.add(op_type, pair, shape)


def choose(m: Maker, x: str, shape: Shape) -> None:
    same = [n for n, s in m.shapes.items() if s == shape]
    test = m.add(m.pick(COMPARE), [x, m.constant(np.float32(0.25))], None)
    if m.number(0, 1):
        test = m.add("Not", [test], None)
    m.add("Where", [test, m.pick(same), m.operand(())], shape)


def reshape(m: Maker, x: str, shape: Shape) -> None:
    left, target = int(np.prod(shape, dtype=int)), []
    if not left:
        return
    for _ in range(m.number(0, 3)):
        factor = m.pick([d for d in range(1, left + 1) if left % d == 0])
        target.append(factor)
        left //= factor
    target.append(left)
    m.add("Reshape", [x, m.ints(*target)], tuple(target))


def transpose(m: Maker, x: str, shape: Shape) -> None:
    perm = m.draw(st.permutations(range(len(shape))))
    m.add("Transpose", [x], tuple(shape[p] for p in perm), perm=perm)


def cut(m: Maker, x: str, shape: Shape) -> None:
    axis = m.number(0, len(shape) - 1)
    start, end = m.number(-6, 6), m.number(-6, 6)
    step = m.pick([1, 1, 2, -1, -2])
    size = slice_box(start, end, step, shape[axis])[1]
    out = tuple(size if k == axis else d for k, d in enumerate(shape))
    m.add("Slice", [x, m.ints(start), m.ints(end), m.ints(axis), m.ints(step)], out)


def split(m: Maker, x: str, shape: Shape) -> None:
    axis = m.number(0, len(shape) - 1)
    first = m.number(0, shape[axis])
    names = [m.name(), m.name()]
    sizes = m.ints(first, shape[axis] - first)
    m.nodes.append(
        onnx.helper.make_node("Split", [x, sizes], names, name=names[0] + "Split", axis=axis)
    )
    for name, size in zip(names, (first, shape[axis] - first), strict=True):
        m.shapes[name] = tuple(size if k == axis else d for k, d in enumerate(shape))


def concat(m: Maker, x: str, shape: Shape) -> None:
    axis = m.number(0, len(shape) - 1)
    rest = shape[:axis] + shape[axis + 1 :]
    fitting = [
        n for n, s in m.shapes.items() if len(s) == len(shape) and s[:axis] + s[axis + 1 :] == rest
    ]
    pieces = [x, *(m.pick(fitting) for _ in range(m.number(0, 2)))]
    total = sum(m.shapes[p][axis] for p in pieces)
    out = tuple(total if k == axis else d for k, d in enumerate(shape))
    m.add("Concat", pieces, out, axis=axis)


def pad(m: Maker, x: str, shape: Shape) -> None:
    low = [m.pick([0, 0, 1, 2, -1]) if d > 1 else m.pick([0, 1]) for d in shape]
    high = [m.pick([0, 0, 1, 2]) for d in shape]
    out = tuple(d + a + b for d, a, b in zip(shape, low, high, strict=True))
    if 0 not in shape:
        m.add("Pad", [x, m.ints(*low, *high), m.constant(np.float32(m.number(-1, 1)))], out)


def gather(m: Maker, x: str, shape: Shape) -> None:
    axis = m.number(0, len(shape) - 1)
    if not shape[axis]:
        return
    index_shape = m.pick([(), (1,), (3,), (2, 2)])
    random = np.random.default_rng(m.count)
    index = np.asarray(random.integers(-shape[axis], shape[axis], index_shape), np.int64)
    name = m.constant(index)
    if m.number(0, 1):
        m.inputs[name] = m.constants.pop(name)
    m.add("Gather", [x, name], shape[:axis] + index_shape + shape[axis + 1 :], axis=axis)


def stretch(m: Maker, x: str, shape: Shape) -> None:
    if m.number(0, 1):
        target = tuple(d if d != 1 else m.number(1, 3) for d in shape)
        m.add("Expand", [x, m.ints(*target)], target)
    else:
        times = [m.number(1, 2) for _ in shape]
        m.add("Tile", [x, m.ints(*times)], tuple(d * t for d, t in zip(shape, times, strict=True)))


def axes(m: Maker, x: str, shape: Shape) -> None:
    if 1 in shape and m.number(0, 1):
        axis = shape.index(1)
        m.add("Squeeze", [x, m.ints(axis)], shape[:axis] + shape[axis + 1 :])
    else:
        axis = m.number(0, len(shape))
        m.add("Unsqueeze", [x, m.ints(axis)], shape[:axis] + (1,) + shape[axis:])


def reduce(m: Maker, x: str, shape: Shape) -> None:
    chosen = sorted({m.number(0, len(shape) - 1) for _ in range(m.number(1, 2))})
    keep = m.number(0, 1)
    out = tuple(1 if k in chosen else d for k, d in enumerate(shape) if keep or k not in chosen)
    if all(shape[k] for k in chosen):
        m.add(m.pick(REDUCE), [x, m.ints(*chosen)], out, keepdims=keep)


def softmax(m: Maker, x: str, shape: Shape) -> None:
    m.add(m.pick(["Softmax", "LogSoftmax"]), [x], shape, axis=m.number(0, len(shape) - 1))


def layer_norm(m: Maker, x: str, shape: Shape) -> None:
    axis = m.number(0, len(shape) - 1)
    if all(shape[axis:]):
        scale, bias = m.operand(shape[axis:]), m.operand(shape[axis:])
        m.add("LayerNormalization", [x, scale, bias], shape, axis=axis, epsilon=0.1)


def matmul(m: Maker, x: str, shape: Shape) -> None:
    fitting = [n for n, s in m.shapes.items() if len(s) == len(shape) >= 2 and s[:-2] == shape[:-2]
               and s[-2] == shape[-1]]  # fmt: skip
    if fitting and m.number(0, 1):
        other = m.pick(fitting)
        m.add("MatMul", [x, other], shape[:-1] + m.shapes[other][-1:])
    else:
        columns = m.number(1, 4)
        weights = m.operand((shape[-1], columns))
        if len(shape) == 2 and m.number(0, 1):
            m.add("Gemm", [x, weights, m.operand((columns,))], (shape[0], columns), alpha=0.5)
        else:
            m.add("MatMul", [x, weights], shape[:-1] + (columns,))


def window(m: Maker, x: str, shape: Shape) -> None:
    """Convolution or pooling of what has two spatial axes of 2 or more."""
    n, c, h, w = shape
    if min(h, w) < 2 or not n or not c:
        return
    pads, stride = [m.number(0, 1) for _ in range(4)], m.number(1, 2)
    out = tuple((d + a + b - 2) // stride + 1 for d, a, b in
                [(h, pads[0], pads[2]), (w, pads[1], pads[3])])  # fmt: skip
    kind = m.number(0, 4)
    if kind < 2:
        groups = c if kind else 1
        weights = m.operand((c if kind else 3, c // groups, 2, 2))
        inputs = [x, weights] + ([m.operand((c if kind else 3,))] if m.number(0, 1) else [])
        m.add(
            "Conv",
            inputs,
            (n, c if kind else 3, *out),
            pads=pads,
            strides=[stride] * 2,
            group=groups,
        )
    elif kind == 4:
        scale, bias, mean = (m.operand((c,)) for _ in range(3))
        m.add(
            "BatchNormalization",
            [x, scale, bias, mean, m.constant(m.floats((c,), 0.5, 2.0))],
            shape,
        )
    else:
        op_type = "MaxPool" if kind == 2 else "AveragePool"
        more = {} if kind == 2 else {"count_include_pad": m.number(0, 1)}
        m.add(
            op_type, [x], (n, c, *out), kernel_shape=[2, 2], pads=pads, strides=[stride] * 2, **more
        )


def spread(m: Maker, x: str, shape: Shape) -> None:
    n, c, h, w = shape
    if c and c % 4 == 0:
        mode = m.pick(["DCR", "CRD"])
        m.add("DepthToSpace", [x], (n, c // 4, h * 2, w * 2), blocksize=2, mode=mode)
    elif h and w and h % 2 == w % 2 == 0:
        m.add("SpaceToDepth", [x], (n, c * 4, h // 2, w // 2), blocksize=2)
    elif n and c and h and w:
        m.add("GlobalAveragePool", [x], (n, c, 1, 1))


ANY_RANK = [unary, unary, binary, binary, choose, reshape, axes]
FROM_RANK_1 = [
    transpose,
    cut,
    split,
    concat,
    pad,
    gather,
    stretch,
    reduce,
    softmax,
    layer_norm,
    matmul,
]
RANK_4 = [window, window, spread]


@st.composite
def models(
    draw: Callable, nodes: int = 7, symbolic: bool = False
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return a model, whose outputs are all values nobody reads and some others, and its inputs.

    If symbolic, its inputs' extents above 1 are symbols, the same one for equal extents.
    """
    m = Maker(draw)
    for _ in range(m.number(1, 2)):
        rank = m.pick([0, 1, 2, 3, 4, 4])
        shape = tuple(m.number(1, 4) for _ in range(rank))
        name = m.name()
        m.inputs[name], m.shapes[name] = m.floats(shape), shape
    for _ in range(m.number(2, nodes)):
        x, shape = m.value()
        options = (
            ANY_RANK + (FROM_RANK_1 if shape else []) + (RANK_4 * 4 if len(shape) == 4 else [])
        )
        m.pick(options)(m, x, shape)
    made = [o for node in m.nodes for o in node.output]
    used = {i for node in m.nodes for i in node.input}
    outputs = [o for o in made if o not in used]
    floats = [o for o in made if o in m.shapes and o not in outputs]
    outputs += list(dict.fromkeys(m.pick(floats) for _ in range(m.number(0, 2)))) if floats else []
    inputs = {k: a for k, a in m.inputs.items() if k in used}
    symbols = {k: [f"d{d}" if d > 1 else d for d in a.shape] for k, a in inputs.items()}
    made = build(
        m.nodes, inputs, m.constants, outputs=outputs, symbols=symbols if symbolic else None
    )
    return made, inputs
