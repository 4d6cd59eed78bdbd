"""Rules that add up the branches of a block which all read the same value: one Conv is left.

Networks that are trained with several convolutions beside each other, and exported without merging
them, hold sums of such branches (RepVGG, MobileOne).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from onnx_fusion.graph.model import Node, Value
from onnx_fusion.ops.elementwise import is_scale_and_shift
from onnx_fusion.passes.rewrite.contraction import is_weight, lazily, wide
from onnx_fusion.passes.rewrite.model import Exactness, Proposal, Rule, Scene, make


@dataclasses.dataclass(frozen=True, slots=True)
class _Taps:
    """A constant Conv; where its taps are: tap t of an axis is at t * dilation - begin."""

    node: Node
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    group: int

    def places(self, kernel: Sequence[int], dilations: Sequence[int],
               begins: Sequence[int]) -> tuple[slice, ...] | None:
        """Return where another window's taps are among these, None if some are not."""
        found = []
        for size, step, begin, more, of, pad in zip(
                kernel, dilations, begins, self.kernel, self.dilations, self.begins, strict=True):
            first, rest = divmod(pad - begin, of)
            if rest or first < 0 or first + size > more or size > 1 and step != of:
                return None
            found.append(slice(first, first + size))
        return tuple(found)

    def centre(self) -> tuple[int, ...] | None:
        """Return the tap that reads what lies where the output does, None if there is none."""
        outputs, inputs = self.node.inputs[1].shape[:2]
        rank = len(self.kernel)
        at = self.places((1,) * rank, (1,) * rank, (0,) * rank)
        if at is None or max(self.strides) > 1 or inputs * self.group != outputs:
            return None
        return tuple(axis.start for axis in at)


def _taps(value: Value | None) -> _Taps | None:
    """Return the Conv with constant float32 weights that writes a value."""
    node = value.producer if value is not None else None
    if node is None or node.op_type != "Conv" or node.domain or not is_weight(node.inputs[1]):
        return None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not is_weight(bias):
        return None
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "VALID"):
        return None
    kernel = tuple(node.inputs[1].shape[2:])
    rank = len(kernel)
    given = node.attrs.get("pads") if auto == "NOTSET" else None
    return _Taps(node, kernel, tuple(node.attrs.get("strides") or (1,) * rank),
                 tuple(node.attrs.get("dilations") or (1,) * rank),
                 tuple(given or (0,) * (2 * rank))[:rank], node.attrs.get("group", 1))


def _bias(conv: Node) -> np.ndarray:
    bias = conv.inputs[2] if len(conv.inputs) > 2 else None
    return np.zeros(conv.inputs[1].shape[0]) if bias is None else wide(bias)


def _norm(value: Value | None) -> Node | None:
    """Return the BatchNormalization, left as a constant scale and shift, that writes a value."""
    norm = value.producer if value is not None else None
    if norm is None or norm.op_type != "BatchNormalization" or norm.domain:
        return None
    return norm if all(map(is_weight, norm.inputs[1:3])) and is_scale_and_shift(norm) else None


def _pairs(node: Node) -> list[tuple[tuple[Value, int], tuple[Value, int]]]:
    """Return what an Add or Sub reads, with signs, in both orders; all of its result's shape."""
    a, b = node.inputs
    shape = node.outputs[0].shape
    if shape is None or a.shape != shape or b.shape != shape:
        return []
    one, other = (a, 1), (b, -1 if node.op_type == "Sub" else 1)
    return [(one, other), (other, one)]


def _two_convs(node: Node, scene: Scene) -> Proposal | None:
    """Conv and Conv of the same value, one window's taps among the other's."""
    for (value, sign), (other, other_sign) in _pairs(node):
        wider, narrower = _taps(value), _taps(other)
        if wider is None or narrower is None or wider.node is narrower.node:
            continue
        (x, weight), (y, less) = wider.node.inputs[:2], narrower.node.inputs[:2]
        if x is not y or (wider.strides, wider.group) != (narrower.strides, narrower.group):
            continue
        at = wider.places(narrower.kernel, narrower.dilations, narrower.begins)
        if at is None or weight.shape[:2] != less.shape[:2]:
            continue
        old = (wider.node, narrower.node)
        return _one(node, scene, old,
                    functools.partial(_summed, weight, sign, less, other_sign, at),
                    lambda old=old, sign=sign, by=other_sign:
                        sign * _bias(old[0]) + by * _bias(old[1]))
    return None


def _summed(weight: Value, sign: int, less: Value, other_sign: int,
            at: tuple[slice, ...]) -> np.ndarray:
    taps = sign * wide(weight)
    taps[(slice(None), slice(None), *at)] += other_sign * wide(less)
    return taps


def _conv_and_scale(node: Node, scene: Scene) -> Proposal | None:
    """Conv, and BatchNormalization left as a scale and a shift, of the same value."""
    for (value, sign), (other, other_sign) in _pairs(node):
        of, norm = _taps(value), _norm(other)
        if of is None or norm is None or norm.inputs[0] is not of.node.inputs[0]:
            continue
        scale, shift = norm.inputs[1:3]
        at = of.centre()
        if at is None or scale.shape != of.node.inputs[1].shape[:1] or shift.shape != scale.shape:
            continue
        return _one(node, scene, (of.node, norm),
                    lambda of=of, sign=sign, by=other_sign, scale=scale, at=at: _with_input(
                        of, sign, by * wide(scale), at),
                    lambda of=of, sign=sign, by=other_sign, shift=shift:
                        sign * _bias(of.node) + by * wide(shift))
    return None


def _depthwise_and_input(node: Node, scene: Scene) -> Proposal | None:
    """Depthwise Conv, and what it reads: a tap that is there anyway."""
    for (value, sign), (x, x_sign) in _pairs(node):
        of = _taps(value)
        at = of.centre() if of is not None else None
        if at is None or of.node.inputs[0] is not x or of.group != of.node.inputs[1].shape[0]:
            continue
        return _one(node, scene, (of.node,),
                    lambda of=of, sign=sign, by=x_sign, at=at: _with_input(of, sign, by, at),
                    lambda of=of, sign=sign: sign * _bias(of.node))
    return None


def _with_input(of: _Taps, sign: int, factor: np.ndarray | int, at: tuple[int, ...]) -> np.ndarray:
    """Return the weights by which a Conv's result times `sign` has its input times `factor` added.
    """
    taps = sign * wide(of.node.inputs[1])
    rows = np.arange(len(taps))
    taps[(rows, rows % taps.shape[1], *at)] += factor
    return taps


def _norm_after_conv(node: Node, scene: Scene) -> Proposal | None:
    """Conv, then BatchNormalization left as a scale and a shift."""
    norm, of = _norm(node.outputs[0]), _taps(node.inputs[0])
    if norm is None or of is None:
        return None
    weight, (scale, shift) = of.node.inputs[1], norm.inputs[1:3]
    if scale.shape != weight.shape[:1] or shift.shape != scale.shape:
        return None
    # Not where the product is no float32, as of a large scale behind small results.
    largest = np.abs(wide(weight)).max(initial=0) * np.abs(wide(scale)).max(initial=0)
    if not largest <= np.finfo(np.float32).max:
        return None
    by = (-1,) + (1,) * (len(weight.shape) - 1)
    return _one(node, scene, (of.node,), lambda: wide(weight) * wide(scale).reshape(by),
                lambda: _bias(of.node) * wide(scale) + wide(shift))


def _one(node: Node, scene: Scene, old: tuple[Node, ...], weight: Callable[[], np.ndarray],
         bias: Callable[[], np.ndarray]) -> Proposal | None:
    """Return the Conv that `node` and the `old` ones become; the first one has its window."""
    if not scene.is_closed((*old, node), node.outputs):
        return None
    conv, shape = old[0], old[0].inputs[1].shape
    inputs = [conv.inputs[0], lazily(shape, weight), lazily(shape[:1], bias)]
    return Proposal((*old, node), [make("Conv", inputs, node.outputs[0], conv.attrs, node.name)])


RULES = [
    Rule("sum-convs", frozenset(("Add", "Sub")), Exactness.ROUNDING,
         "the sum of two Convs of the same value is one, of the sum of their weights", _two_convs),
    Rule("conv-and-scale", frozenset(("Add", "Sub")), Exactness.ROUNDING,
         "Conv takes in a BatchNormalization beside it", _conv_and_scale),
    Rule("depthwise-and-input", frozenset(("Add", "Sub")), Exactness.ROUNDING,
         "depthwise Conv takes in its input that is added to it", _depthwise_and_input),
    Rule("norm-after-conv", frozenset(("BatchNormalization",)), Exactness.ROUNDING,
         "Conv of summed branches takes in the BatchNormalization behind it", _norm_after_conv),
]
