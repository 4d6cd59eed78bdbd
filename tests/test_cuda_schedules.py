"""Every CUDA schedule in every type, by the emulator, against the interpreter."""

from __future__ import annotations

import dataclasses

import cuda_emulator
import numpy as np
import pytest
from cuda_programs import PROGRAMS, widen

from onnx_fusion.program import interpret, parse_program

BY_NAME = {p.name: p for p in PROGRAMS}


@pytest.fixture(scope="module")
def plans() -> dict[str, cuda_emulator.Plan]:
    """Return the plans of all programs, their texts compiled together."""
    found = {p.name: cuda_emulator.plan(p.text, p.inputs, p.device) for p in PROGRAMS}
    cuda_emulator.machine().build(
        (s["entry"], s["unit"]) for plan in found.values() for s in plan.sources
    )
    return found


def difference(got: np.ndarray, want: np.ndarray, dtype: str) -> float:
    """Return the largest difference, relative to the result's range."""
    a, b = widen(got, dtype), widen(want, dtype)
    return float(np.abs(a - b).max(initial=0) / max(np.abs(b).max(initial=0), 1e-30))


WIDE = [*{p.schedules: p for p in PROGRAMS if p.name.split("_")[1] != "f64"}.values()]
"""A program of each schedule; with 64-bit indices it may get another one."""


@pytest.mark.parametrize("p", WIDE, ids=lambda p: p.name)
def test_indices_of_64_bits_give_the_same(p):
    plan = cuda_emulator.plan(p.text, p.inputs, dataclasses.replace(p.device, wide=True))
    assert all("const long long " in s["body"] for s in plan.sources)
    parsed = parse_program(p.text)
    got = cuda_emulator.machine().run(plan, p.inputs)
    for g, w, t in zip(got, interpret(parsed, p.inputs), parsed.outputs, strict=True):
        assert difference(g, w, str(t.dtype)) <= p.tolerance


@pytest.mark.parametrize("name", BY_NAME)
def test_equals_the_interpreter(name, plans):
    p, plan = BY_NAME[name], plans[name]
    parsed = parse_program(p.text)
    assert tuple(plan.schedules()) == p.schedules
    want = interpret(parsed, p.inputs)
    got = cuda_emulator.machine().run(plan, p.inputs, seed=len(name))
    for g, w, t in zip(got, want, parsed.outputs, strict=True):
        assert difference(g, w, str(t.dtype)) <= p.tolerance
