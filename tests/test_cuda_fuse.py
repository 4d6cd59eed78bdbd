"""Which stages run as one on CUDA, and that they give what the interpreter gives."""

from __future__ import annotations

import cuda_emulator
import numpy as np
import pytest
from cuda_programs import random
from test_cuda_schedules import difference

from onnx_fusion.program import interpret, parse_program

NORM = """
input x f32[M, N] row
input w f32[K, N] row
input a f32[M, K] row
temp t0 f32[M, N] row
temp t1 f32[M, 1] row
temp t2 f32[M, 1] row
output y0 f32[M, N] row
output y1 f32[M, N] row
stage i: M, j: N, k: K
%0 = load a (i, k)
%1 = load w (k, j)
%2 = dot %0 %1 over k
store t0 (i, j) %2
stage i: M, j: N
%0 = load t0 (i, j)
%1 = load x (i, j)
%2 = add %0 %1
store y0 (i, j) %2
stage i: M, r: N
%0 = load y0 (i, r)
%1 = reduce_sum %0 over r
store t1 (i, 0) %1
stage i: M, r: N
%0 = load y0 (i, r)
%1 = load t1 (i, 0)
%2 = sub %0 %1
%3 = mul %2 %2
%4 = reduce_sum %3 over r
store t2 (i, 0) %4
stage i: M, j: N
%0 = load y0 (i, j)
%1 = load t1 (i, 0)
%2 = load t2 (i, 0)
%3 = sub %0 %1
%4 = sqrt %2
%5 = div %3 %4
store y1 (i, j) %5
"""

TURNED = """
input x f32[N, N] row
temp t0 f32[N, N] row
output y f32[N, N] row
stage i: N, j: N
%0 = load x (i, j)
%1 = exp %0
store t0 (i, j) %1
stage i: N, j: N
%0 = load t0 (j, i)
%1 = neg %0
store y (i, j) %1
"""

SHIFTED = """
input x f32[N] row
temp t0 f32[N] row
output y f32[N] row
stage i: N
%0 = load x (i)
%1 = exp %0
store t0 (i) %1
stage i: N
%0 = load t0 (i)
%1 = load t0 (i - 1) else 0
%2 = add %0 %1
store y (i) %2
"""

TWICE = """
input x f32[N] row
temp t0 f32[N] row
output y f32[N] row
output z f32[N] row
stage i: N
%0 = load x (i)
%1 = exp %0
store t0 (i) %1
stage i: N
%0 = load t0 (i)
%1 = neg %0
store y (i) %1
stage i: N
%0 = load t0 (N - 1 - i)
store z (i) %0
"""

PIECES = """
input x f32[M, N] row
input z f32[M, N] row
output y f32[2 * M, N] row
stage i: M, j: N
%0 = load x (i, j)
%1 = exp %0
store y (i, j) %1
stage k: M, l: N
%0 = load z (k, l)
%1 = neg %0
store y (k + M, l) %1
"""

OTHER_ROWS = """
input x f32[M, N] row
temp t0 f32[M, N] row
output y f32[N] row
stage i: M, j: N
%0 = load x (i, j)
%1 = reduce_max %0 over j
%2 = sub %0 %1
store t0 (i, j) %2
stage i: M, j: N
%0 = load t0 (i, j)
%1 = reduce_sum %0 over i
store y (j) %1
"""

BETWEEN = """
input x f32[N] row
input w f32[N] row
temp t0 f32[N] row
temp t1 f32[N] row
output y f32[N] row
stage i: N
%0 = load x (i)
%1 = exp %0
store t0 (i) %1
stage i: N
%0 = load t0 (N - 1 - i)
%1 = load w (i)
%2 = mul %0 %1
store t1 (i) %2
stage i: N
%0 = load t0 (i)
%1 = load t1 (i)
%2 = add %0 %1
store y (i) %2
"""

HALVES = """
input x f16[M, N] row
temp t0 f16[M, N] row
output y f16[M, N] row
stage i: M, j: N
%0 = load x (i, j)
%1 = cast f32 %0
%2 = const f32 0.3
%3 = mul %1 %2
%4 = cast f16 %3
store t0 (i, j) %4
stage i: M, j: N
%0 = load t0 (i, j)
%1 = cast f32 %0
%2 = reduce_sum %1 over j
%3 = div %1 %2
%4 = cast f16 %3
store y (i, j) %4
"""

BLOCK = """
input x f16[M, 48] row
input w f16[48, 3, 2, 24] row
input b f16[3, 2, 24] row
temp q f32[3, 2, M, 24] row
temp t0 f32[2, M, M] row
temp t1 f32[2, M, M] row
output y f16[M, 48] row
stage o: 3, h: 2, i: M, d: 24, k: 48
%0 = load x (i, k)
%1 = cast f32 %0
%2 = load w (k, o, h, d)
%3 = cast f32 %2
%4 = dot %1 %3 over k
%5 = load b (o, h, d)
%6 = cast f32 %5
%7 = add %4 %6
store q (o, h, i, d) %7
stage h: 2, i: M, j: M, d: 24
%0 = load q (0, h, i, d)
%1 = load q (1, h, j, d)
%2 = dot %0 %1 over d
%3 = const f32 0.2
%4 = mul %2 %3
store t0 (h, i, j) %4
stage h: 2, i: M, j: M
%0 = load t0 (h, i, j)
%1 = reduce_max %0 over j
%2 = sub %0 %1
%3 = exp %2
%4 = reduce_sum %3 over j
%5 = div %3 %4
store t1 (h, i, j) %5
stage i: M, h: 2, d: 24, j: M
%0 = load t1 (h, i, j)
%1 = load q (2, h, j, d)
%2 = dot %0 %1 over j
%3 = load x (i, 24 * h + d)
%4 = cast f32 %3
%5 = add %2 %4
%6 = cast f16 %5
store y (i, 24 * h + d) %6
"""

GUARDED = """
input x f16[M, 16] row
input w f16[16, 16] row
temp t0 f32[M, 16] row
output y f16[M, 16] row
output z f16[M, 16] row
stage i: M, j: 16, k: 16
%0 = load x (i, k)
%1 = cast f32 %0
%2 = load w (k, j)
%3 = cast f32 %2
%4 = dot %1 %3 over k
store t0 (i, j) %4
stage i: M, j: 16, k: 16
%0 = load t0 (i - 1, k) else 0
%1 = load w (k, j)
%2 = cast f32 %1
%3 = dot %0 %2 over k
%4 = cast f16 %3
store y (i, j) %4
stage i: M, j: 16
%0 = load t0 (M - 1 - i, j)
%1 = neg %0
%2 = cast f16 %1
store z (i, j) %2
"""

CASES = {
    "block": (
        BLOCK,
        [(70, 48), (48, 3, 2, 24), (3, 2, 24)],
        ["product_f16_copied", "attention_f16"],
        True,
    ),
    "guarded": (
        GUARDED,
        [(40, 16), (16, 16)],
        ["product_f16_copied", "product_f16", "points"],
        True,
    ),
    "norm": (NORM, [(9, 24), (16, 24), (9, 16)], ["product", "warp_rows"], False),
    "norm_ragged": (NORM, [(10, 17), (9, 17), (10, 9)], ["product", "warp_rows"], False),
    "turned": (TURNED, [(7, 7)], ["points"], False),
    "shifted": (SHIFTED, [(40,)], ["points", "points"], True),
    "twice": (TWICE, [(40,)], ["points", "points"], True),
    "pieces": (PIECES, [(5, 12), (5, 12)], ["points"], False),
    "other_rows": (OTHER_ROWS, [(33, 65)], ["warp_rows", "columns"], True),
    "between": (BETWEEN, [(33,), (33,)], ["points", "points"], True),
    "halves": (HALVES, [(5, 72)], ["warp_rows"], False),
}


@pytest.fixture(scope="module")
def plans() -> dict:
    found = {}
    for name, (text, shapes, _, _) in CASES.items():
        text = "tile_program 1" + text
        dtypes = [str(t.dtype) for t in parse_program(text).inputs]
        inputs = [random(d, *s) for d, s in zip(dtypes, shapes, strict=True)]
        found[name] = (text, inputs, cuda_emulator.plan(text, inputs))
    cuda_emulator.machine().build(
        (s["entry"], s["unit"]) for _, _, plan in found.values() for s in plan.sources
    )
    return found


@pytest.mark.parametrize("name", CASES)
def test_stages_become_one_where_they_meet(name, plans):
    text, inputs, plan = plans[name]
    _, _, schedules, stored = CASES[name]
    assert plan.schedules() == schedules
    assert (plan.workspace > 0) == stored
    program = parse_program(text)
    got = cuda_emulator.machine().run(plan, inputs)
    for g, w, t in zip(got, interpret(program, inputs), program.outputs, strict=True):
        dtype = str(t.dtype)
        assert difference(g, w, dtype) <= (4e-6 if dtype == "f32" else 2e-3)
        assert np.asarray(g).shape == w.shape


def test_a_strict_program_rounds_nothing_more():
    text, shapes, _, _ = CASES["block"]
    inputs = [random("f16", *s) for s in shapes]
    plan = cuda_emulator.plan("tile_program 1 strict" + text, inputs)
    assert plan.schedules() == ["product_f16_copied", "product", "warp_rows", "product"]


def test_an_architecture_without_bf16_multiplies_floats():
    text = "tile_program 1" + GUARDED.replace("f16", "bf16")
    inputs = [random("bf16", 40, 16), random("bf16", 16, 16)]
    on_80 = ["product_bf16_copied", "product_bf16", "points"]
    for arch, schedules in ((75, ["product", "product", "points"]), (80, on_80)):
        plan = cuda_emulator.plan(text, inputs, cuda_emulator.Device(arch=arch))
        assert plan.schedules() == schedules
        got = cuda_emulator.machine().run(plan, inputs)
        for g, w in zip(got, interpret(parse_program(text), inputs), strict=True):
            assert difference(g, w, "bf16") <= 1.5e-2
