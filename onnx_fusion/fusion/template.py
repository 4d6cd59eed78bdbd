"""Templates: red cells of the mapping table that are opened where one kernel is really better.

The table keeps two many-to-many operators apart because one loop nest cannot run both well. A
region may hold several stages, though, that pass a tile, a few rows or a vector on in the cache.
Each template is a row: which neighbouring blocks it joins. A block that one template made is left
by the others, but for the last two, which are about the cost of a node itself.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from onnx_fusion.fusion import cost
from onnx_fusion.fusion.block import Block, Blocks
from onnx_fusion.graph.model import Node, Value
from onnx_fusion.graph.view import irs_bytes
from onnx_fusion.ops import table
from onnx_fusion.ops.mapping import CONTRACTIONS, WINDOWS, Role

Fits = Callable[[Sequence[Node]], bool]

MOST_SECONDS = 10e-6
"""What the smaller of two regions may take to be merged, at one rate for all operators."""
MOST_BYTES = 256 << 10
"""Intermediate results that may lie between them: what a second-level cache holds beside the
weights."""
MOST_IMAGES = 3
"""Convolutions in a row that are one region; longer ones are no faster."""
_WINDOWS = frozenset((Role.CONVOLUTION, Role.DEPTHWISE))
MOST_MLP_BYTES = 1 << 20
"""Weights and intermediate results of two layers that are one region."""
MOST_CHAIN_SECONDS = 1e-3
"""What products in a row that are one region may take on a CPU, at one rate for all operators. A
node costs 6 to 9 microseconds there, since weights push the session's own code out of the caches.
"""


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """`find(blocks, block)` returns the groups of blocks, `block` among them, that would be one
    region, best first. `again` merges what templates made, too."""

    name: str
    about: str
    find: Callable[[Blocks, Block], list[list[Block]]]
    again: bool = False


def merge(blocks: Blocks, names: Collection[str], fits: Fits) -> dict[Block, str]:
    """Merge blocks by the templates named; return those that were made, each with its template's
    name.

    `fits` says whether the target can run the nodes as one region.
    """
    made: dict[Block, str] = {}
    for template in TEMPLATES:
        if template.name not in names:
            continue
        for block in blocks.all():
            while blocks.of[block.nodes[0]] is block and (template.again or block not in made):
                group = next(
                    (
                        g
                        for g in template.find(blocks, block)
                        if _legal(template, g, made, blocks, fits)
                    ),
                    None,
                )
                if group is None:
                    break
                first = group[0]
                for other in group[1:]:
                    first.absorb(other)
                    made.pop(other, None)
                for node in first.nodes:
                    blocks.of[node] = first
                made[first] = template.name
    return made


def _legal(
    template: Template, group: list[Block], made: dict[Block, str], blocks: Blocks, fits: Fits
) -> bool:
    if not template.again and any(block in made for block in group):
        return False
    nodes = [node for block in group for node in block.nodes]
    return blocks.convex(nodes) and fits(nodes)


def _roles(block: Block) -> set[Role | None]:
    return {table.find(node).role_of(node) for node in block.nodes}


def _contracts(block: Block) -> bool:
    return not CONTRACTIONS.isdisjoint(_roles(block))


def _between(first: Block, second: Block, bound: Mapping[Node, Node] | None = None) -> list[Value]:
    """Return the values that the first block hands to the second, those of `bound` in their
    place."""
    members = set(second.nodes)
    return [
        sized
        for node in first.nodes
        for value, sized in zip(node.outputs, (bound or {}).get(node, node).outputs, strict=True)
        if value is not None and any(c in members for c in value.consumers)
    ]


def _known(*blocks: Block) -> bool:
    return all(
        isinstance(d, int)
        for block in blocks
        for node in block.nodes
        for value in node.outputs
        if value is not None
        for d in value.shape or ("?",)
    )


def _multiplies_activations(block: Block) -> bool:
    """Return whether the block holds a product of two values that are not constant."""
    return any(
        table.find(node).is_contraction(node)
        and all(v is not None and v.weight is None for v in node.inputs[:2])
        for node in block.nodes
    )


def _attention(blocks: Blocks, block: Block) -> list[list[Block]]:
    """softmax(Q K' ...) V: the score matrix is as large as all else, and lives for one block of
    rows."""
    if Role.SOFTMAX not in _roles(block):
        return []
    values = [b for b in blocks.after(block) if _multiplies_activations(b)]
    if _multiplies_activations(block):
        return [[block, values[0]]] if len(values) == 1 else []
    scores = [b for b in blocks.before(block) if _multiplies_activations(b)]
    if len(scores) != 1 or len(values) != 1:
        return []
    return [[scores[0], block, values[0]]]


def _pooling(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Convolution + pooling: a few rows of the convolution's result make one of the pooling's."""
    if not _contracts(block):
        return []
    pools = [
        b
        for b in blocks.after(block)
        if Role.POOL in _roles(b) and not _contracts(b) and blocks.before(b) == [block]
    ]
    return [[block, *pools], *([block, pool] for pool in pools)] if pools else []


def _excite(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Squeeze-and-excite: the mean of each channel, two layers on it, and a scale for each channel,
    which the weights of a 1x1 convolution may take."""
    if Role.REDUCTION not in _roles(block):
        return []
    group, last = [block], block
    while len(group) < 4:
        following = [
            b
            for b in blocks.after(last)
            if b not in group and _contracts(b) and all(map(_is_vector, _between(last, b)))
        ]
        if len(following) != 1:
            break
        last = following[0]
        group.append(last)
    groups = [group[:size] for size in range(len(group), 1, -1)]
    following = blocks.after(last)
    if len(group) > 1 and len(following) == 1 and _takes_gate(last, following[0]):
        groups.insert(0, [*group, following[0]])
    return groups


def _takes_gate(first: Block, second: Block) -> bool:
    """Return whether channels scaled by the first block could be scaled in the weights of the
    second, a 1x1 convolution: more pixels share them than they have rows."""
    scaled = _between(first, second)
    if len(scaled) != 1 or not _known(first, second) or len(scaled[0].shape) < 3:
        return False
    if not _WINDOWS.isdisjoint(_roles(second)) or Role.POINTWISE not in _roles(second):
        return False
    outputs = [n.outputs[0] for n in second.nodes if table.find(n).role_of(n) is Role.POINTWISE]
    images, _, *pixels = scaled[0].shape
    return len(outputs) == 1 and images == 1 and math.prod(pixels) >= outputs[0].shape[1]


def _is_vector(value: Value) -> bool:
    """Return whether a value [N, C, ...] has one element per channel."""
    return value.shape is not None and all(d == 1 for d in value.shape[2:])


def _images(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Up to three convolutions, every other one depthwise, that alone read the image before them: a
    few rows of it live at a time."""
    group = [block]
    while _contracts(group[-1]) and len(group) < MOST_IMAGES:
        following = blocks.after(group[-1])
        if len(following) != 1:
            break
        last, roles = _roles(group[-1]), _roles(following[0])
        if Role.POINTWISE not in roles and Role.DEPTHWISE not in roles:
            break
        if (Role.DEPTHWISE in last) == (Role.DEPTHWISE in roles):
            break
        group.append(following[0])
    return [group[:size] for size in range(len(group), 1, -1)]


def _norm(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Row normalization after a contraction, whose rows are in the cache, or else before the only
    one."""
    if Role.NORM not in _roles(block) or _contracts(block):
        return []
    after = blocks.after(block)
    groups = [[b, block] for b in blocks.before(block) if _contracts(b)]
    if len(after) == 1 and _contracts(after[0]):
        groups.append([block, after[0]])
    return groups


def _mlp(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Two matrix products or 1x1 convolutions whose weights and intermediate result stay in the
    cache."""
    following = blocks.after(block)
    if not _contracts(block) or len(following) != 1 or not _contracts(following[0]):
        return []
    pair = [block, following[0]]
    if not _WINDOWS.isdisjoint(_roles(block) | _roles(following[0])) or not _known(*pair):
        return []
    if any(map(_multiplies_activations, pair)):
        return []
    weights = {v for b in pair for n in b.nodes for v in n.inputs if v is not None and v.weight}
    size = sum(v.weight.nbytes for v in weights) + sum(map(irs_bytes, _between(*pair)))
    return [pair] if size <= MOST_MLP_BYTES else []


def _small(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Kernels of a few microseconds: what counts is the node itself, its binding and allocation."""
    return [[block, b] for b in blocks.after(block) if _is_small(block, b, blocks)]


def _is_small(first: Block, second: Block, blocks: Blocks) -> bool:
    """Return whether the smaller of the two takes little, and what lies between stays in the cache.

    Symbols count as they do elsewhere; or else what lies between is as large as usual, and the two
    take as long as they do where images and texts are small, since more hardly makes it slower.
    """
    itself = {node: node for block in (first, second) for node in block.nodes}
    sizes = ((itself, itself), (blocks.bound[0], blocks.bound[-1]))
    plain = dataclasses.replace(blocks.rates, side=None)
    return any(
        sum(map(irs_bytes, _between(first, second, usual))) <= MOST_BYTES
        and any(
            cost.compute_seconds([small[node] for node in block.nodes], plain) <= MOST_SECONDS
            for block in (first, second)
        )
        for usual, small in sizes
    )


def _chain(blocks: Blocks, block: Block) -> list[list[Block]]:
    """Matrix products of which one reads what the other makes, or both the same: what counts is the
    node itself."""
    read = [v for n in block.nodes for v in n.inputs if v is not None and v.weight is None]
    beside = dict.fromkeys(
        blocks.of[c]
        for v in read
        if v.producer not in block.nodes
        for c in v.consumers
        if c in blocks.of and blocks.of[c] is not block
    )
    groups = [[block, b] for b in blocks.after(block) if _is_chain(block, b)]
    if not _multiplies_activations(block):
        groups += [
            [block, b] for b in beside if b not in blocks.after(block) and _is_chain(block, b)
        ]
    return groups


def _is_chain(first: Block, second: Block) -> bool:
    # An attention comes first in its region, so that no other stage gets between its own.
    roles = [_roles(first), _roles(second)]
    if any(Role.PRODUCT not in r or not WINDOWS.isdisjoint(r) for r in roles):
        return False
    if _multiplies_activations(second):
        return False
    if sum(map(irs_bytes, _between(first, second))) > MOST_BYTES:
        return False
    plain = dataclasses.replace(cost.FUSED, side=None)
    seconds = sum(cost.compute_seconds(b.nodes, plain) for b in (first, second))
    return seconds <= MOST_CHAIN_SECONDS


TEMPLATES = (
    Template("attention", "MatMul, mask, softmax and MatMul are one region", _attention),
    Template("excite", "squeeze-and-excite on a vector of channels is one region", _excite),
    Template("pooling", "a contraction and the poolings that only read its result", _pooling),
    Template(
        "images", "convolutions, every other one depthwise, that alone read what is before", _images
    ),
    Template(
        "norm", "a row normalization and the contraction before it, or its only reader", _norm
    ),
    Template("mlp", "two layers that stay in the cache with their weights", _mlp),
    Template("small", "neighbouring regions of a few microseconds each", _small, again=True),
    Template("chain", "matrix products in a row, of a millisecond together", _chain, again=True),
)
"""The templates, in the order they are tried."""
NAMES = frozenset(template.name for template in TEMPLATES)
