"""A topological order that moves nodes as little as possible."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Collection, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Item(Generic[T]):
    """A thing to order: where it should be, and the names it reads and defines."""

    position: int
    reads: Collection[str]
    outputs: Sequence[str]
    content: T


def order(items: Sequence[Item[T]]) -> tuple[list[Item[T]], list[Item[T]]]:
    """Return the items in topological order, and those left over, on or behind a cycle.

    Of the items whose inputs are ready the one with the least position comes first (Kahn's
    algorithm with a heap), ties as given. So items that already are in order stay so.
    """
    source = {name: k for k, item in enumerate(items) for name in item.outputs if name}
    waiting = [0] * len(items)
    readers: list[list[int]] = [[] for _ in items]
    for k, item in enumerate(items):
        for producer in {source[name] for name in item.reads if name in source}:
            readers[producer].append(k)
            waiting[k] += 1
    ready = [(item.position, k) for k, item in enumerate(items) if not waiting[k]]
    heapq.heapify(ready)
    done: list[int] = []
    while ready:
        _, k = heapq.heappop(ready)
        done.append(k)
        for reader in readers[k]:
            waiting[reader] -= 1
            if not waiting[reader]:
                heapq.heappush(ready, (items[reader].position, reader))
    return [items[k] for k in done], [item for k, item in enumerate(items) if waiting[k]]
