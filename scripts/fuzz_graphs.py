"""A graph grown node by node for scripts/fuzz.py, each tried in ONNX Runtime first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

MOST_ELEMENTS = 40_000
EXTENTS = (1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 8, 9, 12, 16, 17, 24, 31, 32, 33, 64)
SPECIALS = {
    "f": (np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-40, -1e-44, 3e38, -3e38, 1e-30, 88.5, -104.0,
          1.0, 0.5, -0.5, 2.5, 65504.0, 1e10, 16777217.0),
    "i": (0, 1, -1, 2, 127, -128, 2**31 - 1, -(2**31), 2**62, -(2**62)),
    "u": (0, 1, 2, 127, 128, 254, 255),
}  # fmt: skip
SUMS = frozenset((
    "MatMul", "Gemm", "Conv", "ConvTranspose", "Einsum", "ReduceSum", "ReduceMean", "ReduceL1",
    "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "CumSum", "AveragePool",
    "GlobalAveragePool", "LpPool", "LpNormalization", "LRN", "InstanceNormalization",
    "LayerNormalization", "GroupNormalization", "RMSNormalization", "Attention", "GRU", "LSTM",
    "RNN",
))  # fmt: skip
"""What sums in an order of its own: where some orders overflow, any result is right."""
CHOICES = frozenset((
    "MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin", "TopK", "Hardmax",
    "Softmax", "LogSoftmax",
))  # fmt: skip
"""What ONNX Runtime does with a NaN among its operands depends on where it stands."""
Shape = tuple[int, ...]


class Rejected(Exception):
    """ONNX Runtime does not run these nodes, or they are too large."""


def tensor_type(array: np.ndarray) -> int:
    """Return ONNX's number of an array's type."""
    return helper.np_dtype_to_tensor_dtype(array.dtype)


def quiet(level: onnxruntime.GraphOptimizationLevel | None = None) -> onnxruntime.SessionOptions:
    """Return options of a session of one thread that prints nothing."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if level is not None:
        options.graph_optimization_level = level
    return options


UNOPTIMIZED = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL


@dataclasses.dataclass
class Grower:
    """A model in the making. `values` holds what ONNX Runtime computed for each name."""

    random: np.random.Generator
    opset: int
    extreme: bool = False
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    values: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    inputs: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    constants: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    count: int = 0

    def number(self, low: int, high: int) -> int:
        """Return an integer between both, either included."""
        return int(self.random.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.random.random() < probability)

    def pick(self, options: Sequence) -> Any:
        return options[self.number(0, len(options) - 1)]

    def name(self) -> str:
        self.count += 1
        return f"v{self.count}"

    def shape(self, rank: int) -> Shape:
        """Return random extents, rarely one of zero."""
        while True:
            made = [self.pick(EXTENTS) for _ in range(rank)]
            if rank and self.chance(0.02):
                made[self.number(0, rank - 1)] = 0
            if np.prod(made, dtype=np.int64) <= MOST_ELEMENTS:
                return tuple(made)

    def data(self, shape: Shape, dtype: Any = np.float32, extreme: bool = False) -> np.ndarray:
        """Return random elements: round numbers or normal ones, some of the type's extremes."""
        dtype = np.dtype(dtype)
        if dtype.kind == "b":
            return self.random.random(shape) < 0.5
        kind = self.number(0, 2)
        if dtype.kind == "f":
            whole = self.random.integers(-16, 17, shape) / 4
            made = whole if kind == 0 else self.random.normal(0, 1 if kind == 1 else 3, shape)
        else:
            least = 0 if dtype.kind == "u" else -9
            made = self.random.integers(least, 10, shape)
        made = np.array(made, dtype)
        if extreme and self.extreme and made.size:
            with np.errstate(over="ignore"):
                special = np.array(self.random.choice(SPECIALS[dtype.kind], shape)).astype(dtype)
            made = np.where(self.random.random(shape) < 0.1, special, made).astype(dtype)
        return made

    def given(self, array: np.ndarray) -> str:
        """Return a new input of the model."""
        name = self.name()
        self.inputs[name] = self.values[name] = np.asarray(array)
        return name

    def constant(self, array: Any) -> str:
        """Return a new constant."""
        name = self.name()
        self.constants[name] = self.values[name] = np.asarray(array)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def operand(self, shape: Shape, dtype: Any = np.float32, fixed: float = 0.7) -> str:
        """Return a constant or an input of this shape."""
        array = self.data(shape, dtype)
        return self.constant(array) if self.chance(fixed) else self.given(array)

    def add(self, op_type: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Return the name of a new node's output, or their names. Raises Rejected."""
        made = [self.name() for _ in range(outputs)]
        domain = attributes.pop("domain", "")
        node = helper.make_node(op_type, list(inputs), made, domain=domain, **attributes)
        self.add_nodes([node], made)
        return made[0] if outputs == 1 else made

    def add_nodes(self, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> None:
        """Append nodes, which compute these outputs. Raises Rejected, with nothing changed."""
        own = {name for node in nodes for name in node.output}
        read = {i for node in nodes for i in node.input if i and i not in own}
        for node in nodes:
            for attribute in node.attribute:
                read |= set(captures(attribute.g)) if attribute.HasField("g") else set()
        feeds = {name: self.values[name] for name in read if name in self.values}
        shown = [helper.make_empty_tensor_value_info(name) for name in outputs]
        fixed = [name for name in feeds if name in self.constants]
        typed = [info(name, feeds[name]) for name in feeds if name not in fixed]
        graph = helper.make_graph(list(nodes), "one", typed, shown, [
            numpy_helper.from_array(feeds.pop(name), name) for name in fixed])
        model = close(graph, self.opset)
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), quiet(UNOPTIMIZED), ["CPUExecutionProvider"])
            found = session.run(list(outputs), feeds)
        except Exception as error:
            raise Rejected(str(error)) from None
        if any(not isinstance(a, np.ndarray) or a.size > MOST_ELEMENTS for a in found):
            raise Rejected("too large, or no tensor")
        if any(a.dtype.kind not in "fiub" for a in found):
            raise Rejected("no numbers")
        known = self.values | dict(zip(outputs, found, strict=True))
        for node in nodes:
            need_defined(node, [known[name] for name in node.input if name in known])
        self.nodes.extend(nodes)
        self.values.update(zip(outputs, found, strict=True))

    def value(self, kinds: str = "f", least: int = 0, most: int = 9, size: int = 1) -> str:
        """Return a value made so far of these kinds of type and ranks, newer ones more often."""
        names = [
            n for n, a in self.values.items()
            if a.dtype.kind in kinds and least <= a.ndim <= most and (n not in self.constants)
            and a.size >= size
        ]  # fmt: skip
        if not names:
            raise Rejected("no such value")
        return names[max(self.number(0, len(names) - 1), self.number(0, len(names) - 1))]

    def of(self, name: str) -> np.ndarray:
        return self.values[name]

    def need_numbers(self, x: str) -> None:
        """Raise Rejected if x has a NaN, which ONNX Runtime may ignore or see as it happens."""
        if np.isnan(self.values[x].astype(np.float64)).any():
            raise Rejected("not a number")

    def like(self, x: str) -> str:
        """Return a value that broadcasts with x: one made before, or a new operand."""
        a = self.values[x]
        fitting = [n for n, b in self.values.items() if b.dtype == a.dtype and fits(a, b)]
        if fitting and self.chance(0.5):
            return self.pick(fitting)
        keep = [d if self.chance(0.6) else 1 for d in a.shape]
        array = self.data(tuple(keep[self.number(0, len(keep)) :]), a.dtype, self.chance(0.3))
        return self.constant(array) if self.chance(0.7) else self.given(array)


def need_defined(node: onnx.NodeProto, inputs: Sequence[np.ndarray]) -> None:
    """Raise Rejected if the numbers are such that more than one result of the node is right."""
    floats = [a.astype(np.float64) for a in inputs if a.dtype.kind == "f" and a.size]
    if node.op_type in CHOICES and any(np.isnan(a).any() for a in floats):
        raise Rejected("not a number")
    if node.op_type in SUMS and floats:
        most = max(float(np.finfo(a.dtype).max) for a in inputs if a.dtype.kind == "f")
        largest = max(float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in floats)
        if max(largest, largest**2) * max(a.size for a in floats) > most:
            raise Rejected("a sum may overflow")
    if node.op_type == "LRN" and not all(np.isfinite(a).all() for a in floats):
        raise Rejected("a sum that slides over channels keeps a NaN that it has left behind")
    if node.op_type == "ReduceProd" and floats:
        with np.errstate(all="ignore"):
            if np.log(np.fmax(np.abs(floats[0]), 1)).sum() > np.log(np.finfo(inputs[0].dtype).max):
                raise Rejected("a product may overflow before it is 0")


def fits(a: np.ndarray, b: np.ndarray) -> bool:
    try:
        return int(np.prod(np.broadcast_shapes(a.shape, b.shape))) <= MOST_ELEMENTS
    except ValueError:
        return False


def captures(graph: onnx.GraphProto) -> list[str]:
    """Return the names that a body reads from outside."""
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in node.input]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                read += captures(attribute.g)
    read += [value.name for value in graph.output]
    return [name for name in dict.fromkeys(read) if name and name not in own]


def info(name: str, array: np.ndarray, dims: Sequence | None = None) -> onnx.ValueInfoProto:
    """Return an array's type, with other dims if given."""
    return helper.make_tensor_value_info(
        name, tensor_type(array), list(array.shape) if dims is None else list(dims))


def close(
    graph: onnx.GraphProto, opset: int, ir: int = 8, functions: Sequence = ()
) -> onnx.ModelProto:
    """Return the model of a graph."""
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    if functions:
        imports.append(helper.make_opsetid("fuzz", 1))
    model = helper.make_model(graph, opset_imports=imports, functions=list(functions))
    model.ir_version = ir
    return model


Step = Callable[[Grower], None]


def grow(grower: Grower, steps: Sequence[Step], wanted: int) -> None:
    """Add nodes until there are as many as wanted, or nothing fits any more."""
    for _ in range(wanted * 6):
        if len(grower.nodes) >= wanted:
            return
        try:
            grower.pick(steps)(grower)
        except (Rejected, ValueError, IndexError):
            continue
