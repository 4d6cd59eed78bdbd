"""Chooses the order in which channels lie, so that channel shuffles move nothing.

    x -- Conv -- Relu -- shuffle -- Conv -- y      the first Conv's rows of weights are permuted, so
                                                   that it writes what the shuffle gave
    a ---------------+
    x -- Conv -- b --+- Concat -- shuffle -- Split -- c ... Concat     c = a.0 b.0 a.1 b.1 ...
                                                  `-- d -- Conv        d = a.8 b.8 a.9 b.9 ...

    d' = a.8 a.9 ... b.8 b.9 ...   is a piece of a joined to a piece of b, and the Conv that reads
                                   it has its columns of weights permuted

Values that operators pass on channel by channel have one order (a class). A class whose every end
is a sum over channels, constants that give channels, or an operator that only moves them may have
any.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from onnx_fusion.graph.model import Graph, Value
from onnx_fusion.ops.channels import CHANNEL
from onnx_fusion.passes.atoms import Family, find_families
from onnx_fusion.passes.channel_classes import Classes
from onnx_fusion.passes.reorder import Join, reorder

RULE = "channel-order"
ABOUT = "channels lie in an order in which shuffles of them move nothing"
LEAST_RUN = 2
"""Channels that what is joined anew must have in each piece, on average."""


def arrange(graph: Graph) -> Graph:
    """Remove the channel shuffles that orders of channels make unnecessary; return `graph`.

    Sums over channels are then taken in another order. What operators read and write in another
    order has a new name; other values keep name and meaning, and `graph.restated` has the new
    definitions of those that nodes with such inputs write. New nodes have what they were made of as
    `parts`. Shapes must be inferred, and `infer` and `fold` must not run afterwards.
    """
    families = [family for family in find_families(graph) if _is_plain(family)]
    taken = [family for family in families if family.mixes]
    while taken:
        classes = Classes(graph, taken)
        plans = [_solve(family, classes) for family in taken]
        if None not in plans:
            reorder(graph, classes, taken, plans)
            break
        taken = [family for family, plan in zip(taken, plans, strict=True) if plan is not None]
    return graph


def _is_plain(family: Family) -> bool:
    """Return whether all that others read of the family has channels where they belong, and nothing
    else."""
    first, *others = (*family.bases, *(value for value, _ in _read(family)))
    kept = (first.dtype, first.shape[:CHANNEL], first.shape[CHANNEL + 1 :])
    return all(
        (value.dtype, value.shape[:CHANNEL], value.shape[CHANNEL + 1 :]) == kept for value in others
    ) and all(atoms.ids.size == value.shape[CHANNEL] for value, atoms in _read(family))


def _read(family: Family) -> Iterator[tuple[Value, object]]:
    """Yield what the family writes and others read."""
    members = set(family.nodes)
    for value, atoms in family.atoms.items():
        if value.is_output or value.captured or not members.issuperset(value.consumers):
            yield value, atoms


def _solve(family: Family, classes: Classes) -> dict[Value, Join] | None:
    """Choose orders for what the family reads and is read of it; return what makes up the latter.

    Where pieces would be too short, longer ones are joined and brought into order: None if that is
    no less than half of what the family does.
    """
    read = dict(_read(family))
    uses: dict[int, list[tuple[int, int]]] = {}
    for k, (value, atoms) in enumerate(read.items()):
        order, ids = classes.order(value), atoms.ids.reshape(-1)
        for place, channel in enumerate(ids if order is None else ids[order]):
            uses.setdefault(int(channel), []).append((k, place if order is not None else -1))
    for value, ids in family.bases.items():
        if classes.order(value) is None:
            keys = [(uses.get(int(i), []), place) for place, i in enumerate(ids)]
            classes.orders[classes.find(value)] = np.array(
                sorted(range(ids.size), key=keys.__getitem__)
            )
    home = {
        int(ids[channel]): (k, place)
        for k, (value, ids) in enumerate(family.bases.items())
        for place, channel in enumerate(classes.order(value))
    }
    bases, plan = list(family.bases), {}
    for value, atoms in read.items():
        ids = atoms.ids.reshape(-1)
        if classes.order(value) is None:
            order = sorted(range(ids.size), key=lambda i: home[int(ids[i])])
            classes.orders[classes.find(value)] = np.array(order)
        places = [home[int(i)] for i in ids[classes.order(value)]]
        runs = _runs(places)
        if LEAST_RUN * len(runs) <= len(places) or len(runs) == 1:
            plan[value] = Join(tuple((bases[k], begin, end) for k, begin, end in runs))
            continue
        order = np.array(sorted(range(len(places)), key=places.__getitem__))
        runs = _runs([places[k] for k in order])
        plan[value] = Join(
            tuple((bases[k], begin, end) for k, begin, end in runs), np.argsort(order)
        )
    left = sum(join.places is not None for join in plan.values())
    return plan if 2 * left <= family.mixes else None


def _runs(places: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return the pieces that follow one another: whose, where they begin and end."""
    cuts = [
        k for k in range(1, len(places)) if places[k] != (places[k - 1][0], places[k - 1][1] + 1)
    ]
    return [
        (places[a][0], places[a][1], places[b - 1][1] + 1)
        for a, b in itertools.pairwise((0, *cuts, len(places)))
    ]
