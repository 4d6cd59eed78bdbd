"""What program_cases is written with: a case, and makers of its inputs.

A maker takes a random generator and returns one physical input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

Maker = Callable[[np.random.Generator], np.ndarray]

SIZES = (1, 7, 8, 15, 16, 17, 31, 33, 511, 513, 1025)
"""Extents around the vector and tile lengths of the machines."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A named program and its inputs; `loose` widens the tolerance of long sums."""

    name: str
    text: str
    makers: tuple[Maker, ...]
    loose: float = 1.0

    def inputs(self, seed: int = 0) -> list[np.ndarray]:
        rng = np.random.default_rng([seed, len(self.text)])
        return [make(rng) for make in self.makers]


class Cases(list[Case]):
    """A list of cases that grows by `add`."""

    def add(self, name: str, text: str, *makers: Maker, loose: float = 1.0) -> None:
        """Append a case; the header and the indentation of `text` are supplied and removed."""
        body = "\n".join(line.strip() for line in text.strip().splitlines())
        self.append(Case(name, f"tile_program 1\n{body}\n", makers, loose))


def f32(*shape: int, low: float = -2, high: float = 2) -> Maker:
    return lambda rng: rng.uniform(low, high, shape).astype(np.float32)


def f64(*shape: int) -> Maker:
    return lambda rng: rng.uniform(-2, 2, shape)


def ints(dtype: str, low: int, high: int, *shape: int) -> Maker:
    return lambda rng: rng.integers(low, high, shape).astype(dtype)


def boolean(*shape: int) -> Maker:
    return lambda rng: rng.integers(0, 2, shape).astype(bool)


def given(values: object, dtype: str) -> Maker:
    return lambda rng: np.array(values, dtype)


SPECIAL = [
    0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 0.999,
    1.1754944e-38, 3.4028235e38, -3.4028235e38, 1e-3, 100.0, -100.0, 87.5, -87.5, 88.8, -104.0,
]  # fmt: skip


def special(shift: int = 0) -> Maker:
    """Every special value, rolled so that two inputs meet in many pairs."""
    return lambda rng: np.roll(np.array(SPECIAL * 3, np.float32), shift)
