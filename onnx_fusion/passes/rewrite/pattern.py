"""Rules written as text: `Add(Mul(a, c), Mul(a, b))` becomes `Mul(a, Add(b, c))`.

A name stands for any value, the same one wherever it occurs. Names that begin with k stand for
constants, with p for values that are known not to be negative. A number stands for a constant whose
elements all equal it, `~number` for one within a relative 1e-5 (how exporters round is their
choice). Keywords are attributes. In a replacement, what depends on constants only is computed, in
float64 and rounded once, or in the type's own arithmetic for integers.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
from collections.abc import Callable, Iterator

import numpy as np

from onnx_fusion.dtypes import DType
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.passes.rewrite.model import (
    FLOATS,
    INTEGERS,
    Exactness,
    Proposal,
    Rule,
    Scene,
    array_of,
    broadcast,
    constant,
    is_available,
    is_constant,
    make,
    uniform,
)
from onnx_fusion.passes.rewrite.sign import is_nonnegative

COMMUTATIVE = frozenset(("Add", "Mul", "And", "Or", "Xor", "Equal", "Max", "Min", "Sum"))
_APPROXIMATE = 1e-5
_COMPUTE: dict[str, Callable] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide, "Neg": np.negative,
    "Reciprocal": np.reciprocal, "Max": np.maximum, "Min": np.minimum, "Abs": np.abs,
}
Env = dict[str, Value]


@dataclasses.dataclass(frozen=True, slots=True)
class Name:
    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class Number:
    value: float
    approximate: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Apply:
    op_type: str
    args: tuple[Name | Number | Apply, ...]
    attrs: tuple[tuple[str, float | int | str], ...]


Term = Name | Number | Apply


@functools.cache
def parse(text: str) -> Term:
    """Return the term a text stands for."""
    return _term(ast.parse(text.strip(), mode="eval").body)


def _term(tree: ast.expr) -> Term:
    match tree:
        case ast.Call(ast.Name(op_type), args, keywords):
            attrs = tuple((k.arg, ast.literal_eval(k.value)) for k in keywords)
            return Apply(op_type, tuple(map(_term, args)), attrs)
        case ast.Name(name):
            return Name(name)
        case ast.UnaryOp(ast.Invert(), operand):
            return Number(float(ast.literal_eval(operand)), True)
    return Number(ast.literal_eval(tree), False)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A match: what names stand for, and the nodes matched, the root last."""

    env: Env
    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Value:
        return self.env[name]

    @property
    def output(self) -> Value:
        return self.nodes[-1].outputs[0]


def find(pattern: Apply, node: Node, scene: Scene) -> Iterator[Found]:
    """Yield the ways in which `node` is the root of the pattern."""
    for env, nodes in _node(pattern, node, {}, (), scene):
        yield Found(env, tuple(dict.fromkeys(nodes)))


def _node(pattern: Apply, node: Node, env: Env, nodes: tuple[Node, ...], scene: Scene
          ) -> Iterator[tuple[Env, tuple[Node, ...]]]:
    if node.op_type != pattern.op_type or node.domain or len(node.outputs) != 1:
        return
    if any(node.attrs.get(key) != value for key, value in pattern.attrs):
        return
    inputs = node.inputs
    if len(inputs) != len(pattern.args) or None in inputs:
        return
    orders = [inputs]
    if scene.commute and len(inputs) == 2 and node.op_type in COMMUTATIVE:
        orders.append(inputs[::-1])
    for order in orders:
        for made, used in _all(pattern.args, order, env, nodes, scene):
            yield made, (*used, node)


def _all(terms: tuple[Term, ...], values: list[Value], env: Env, nodes: tuple[Node, ...],
         scene: Scene) -> Iterator[tuple[Env, tuple[Node, ...]]]:
    if not terms:
        yield env, nodes
        return
    for made, used in _value(terms[0], values[0], env, nodes, scene):
        yield from _all(terms[1:], values[1:], made, used, scene)


def _value(term: Term, value: Value, env: Env, nodes: tuple[Node, ...], scene: Scene
           ) -> Iterator[tuple[Env, tuple[Node, ...]]]:
    if isinstance(term, Apply):
        producer = value.producer
        if producer is not None and value.weight is None and producer.outputs[0] is value:
            yield from _node(term, producer, env, nodes, scene)
    elif isinstance(term, Number):
        if _equals(uniform(value), term):
            yield {**env, f"#{term.value}": value}, nodes
    elif term.name in env:
        if env[term.name] is value or _same_constant(env[term.name], value):
            yield env, nodes
    elif term.name[0] == "k" and not is_constant(value):
        return
    elif term.name[0] != "p" or is_nonnegative(value):
        yield {**env, term.name: value}, nodes


def _equals(number: float | None, term: Number) -> bool:
    if number is None or isinstance(number, (bool, str)):
        return False
    if term.approximate:
        return abs(number - term.value) <= _APPROXIMATE * abs(term.value)
    return number == term.value and (number != 0 or np.signbit(number) == np.signbit(term.value))


def _same_constant(a: Value, b: Value) -> bool:
    if a.weight is None or b.weight is None or a.dtype is not b.dtype or a.shape != b.shape:
        return False
    return a.weight.nbytes <= 4096 and a.weight.raw() == b.weight.raw()


class Builder:
    """Makes the nodes of a replacement, equal terms once."""

    def __init__(self, env: Env, dtype: DType, output: Value, name: str) -> None:
        self.env, self.dtype, self.output, self.name = env, dtype, output, name
        self.nodes: list[Node] = []
        self.made: dict[Term, Value] = {}

    def build(self, term: Term, root: bool = False) -> Value | None:
        """Return the term's value, None if its shape or a constant of it is not known."""
        if isinstance(term, Name):
            return self.env[term.name]
        if term in self.made:
            return self.made[term]
        if isinstance(term, Number):
            value = constant(np.array(term.value), self.dtype)
        else:
            args = [self.build(arg) for arg in term.args]
            if any(arg is None or arg.shape is None for arg in args):
                return None
            value = self.apply(term, args, root)
        if value is not None:
            self.made[term] = value
        return value

    def apply(self, term: Apply, args: list[Value], root: bool) -> Value | None:
        arrays = [array_of(arg) for arg in args]
        if not root and term.op_type in _COMPUTE and all(array is not None for array in arrays):
            return self.compute(term.op_type, arrays)
        shape = broadcast(arg.shape for arg in args)
        if shape is None:
            return None
        if root and (shape != self.output.shape or self.dtype is not self.output.dtype):
            return None
        output = self.output if root else Value("", self.dtype, shape)
        self.nodes.append(make(term.op_type, args, output, dict(term.attrs), self.name))
        return output

    def compute(self, op_type: str, arrays: list[np.ndarray]) -> Value | None:
        """Return a constant, None if it is not finite or larger than what it is made from."""
        wide = self.dtype in FLOATS
        with np.errstate(all="ignore"):
            given = [array.astype(np.float64) if wide else array for array in arrays]
            exact = _COMPUTE[op_type](*given)
            result = exact.astype(self.dtype.numpy)
        lost = wide and ((exact != 0) & (np.abs(result) < np.finfo(self.dtype.numpy).tiny)).any()
        if not np.isfinite(result).all() or lost:
            return None
        if result.size > max(array.size for array in arrays):
            return None
        return constant(result, self.dtype)


def rule(name: str, before: str, after: str, about: str, *,
         exactness: Exactness = Exactness.ROUNDING, dtypes: tuple[DType, ...] | None = None,
         when: Callable[[Found], bool] | None = None, since: int = 1) -> Rule:
    """Return the rule that replaces one term by another.

    `dtypes` are the element types of the result it holds for: floats, and integers too if
    it is exact on them; `since` is the opset it needs. Inner values must have no other use.
    """
    pattern, replacement = parse(before), parse(after)
    makers = {term.op_type for term in pattern.args if isinstance(term, Apply)}
    if dtypes is None:
        dtypes = FLOATS if exactness is Exactness.ROUNDING else (*FLOATS, *INTEGERS)

    def propose(node: Node, scene: Scene) -> Proposal | None:
        output = node.outputs[0]
        if output is None or output.dtype not in dtypes or output.shape is None:
            return None
        if scene.opset < since or makers and not makers.issubset(
                v.producer.op_type for v in node.inputs
                if v is not None and v.producer is not None):
            return None
        for found in find(pattern, node, scene):
            if when is not None and not when(found) or not _typed(found, output.dtype):
                continue
            proposal = _replace(found, replacement, scene)
            if proposal is not None:
                return proposal
        return None

    return Rule(name, frozenset((pattern.op_type,)), exactness, about, propose)


def _typed(found: Found, dtype: DType) -> bool:
    """True if what is matched has one element type, Where's and Not's conditions aside."""
    return all(v.dtype in (dtype, DType.BOOL) for v in found.env.values())


def _replace(found: Found, replacement: Term, scene: Scene) -> Proposal | None:
    output = found.output
    if isinstance(replacement, Name):
        return alias(found.nodes, output, found[replacement.name], scene)
    if not scene.is_closed(found.nodes, (output,)):
        return None
    builder = Builder(found.env, output.dtype, output, found.nodes[-1].name)
    if builder.build(replacement, root=True) is None:
        return None
    new = builder.nodes
    missing = [node for node in new if not is_available(node.op_type, scene.opset)]
    if missing and len(new) > 1:
        return None
    new[-1].body_is_parts = bool(missing)
    return Proposal(found.nodes, new)


def alias(nodes: tuple[Node, ...], output: Value, other: Value, scene: Scene) -> Proposal | None:
    """Return the proposal to read `other` instead of `output`; inner nodes others need stay."""
    if output.is_output or output.captured or not output.consumers:
        return None
    if output.shape is None or output.shape != other.shape or output.dtype is not other.dtype:
        return None
    gone = [nodes[-1]]
    for node in reversed(nodes[:-1]):
        if all(not (v.is_output or v.captured) and set(v.consumers) <= set(gone)
               for v in node.outputs if v is not None):
            gone.insert(0, node)
    return None if other.producer in gone else Proposal(tuple(gone), [], {output: other})
