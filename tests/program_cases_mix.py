"""Cases of two neighbours weighed along an axis, as Resize has them."""

from __future__ import annotations

from program_case_kit import Case, Cases, f32

from onnx_fusion.dtypes import DType
from onnx_fusion.program.text import print_literal


def mixed(before: int, after: int, at: str, store: str, types: tuple[str, str, str]) -> str:
    """Return a program that stretches the axis of letter i from `before` to `after` elements; `at`
    is a load's map with PLACE in it."""
    letters, given, made = types
    place = f"{before} * i // {after}"
    return f"""
        input x {given}
        output y {made}
        stage {letters}
        %0 = index {before} * i % {after}
        %1 = cast f32 %0
        %2 = const f32 {print_literal(DType.F32, 1 / after)}
        %3 = mul %1 %2
        %4 = const f32 1
        %5 = sub %4 %3
        %6 = load x ({at.replace("PLACE", place)})
        %7 = mul %6 %5
        %8 = load x ({at.replace("PLACE", f"min({before - 1}, {place} + 1)")})
        %9 = mul %3 %8
        %10 = add %7 %9
        store y ({store}) %10
        """


def mixes() -> list[Case]:
    """Return runs, long, short and too short for one, and lines, in several orders of memory."""
    cases = Cases()
    for n in (1, 3, 7, 8, 33, 1025, 2500):
        letters = f"a: 3, i: 7, j: {n}"
        sides = (letters, f"f32[3, 5, {n}] row", f"f32[3, 7, {n}] row")
        cases.add(f"mix_rows_{n}", mixed(5, 7, "a, PLACE, j", "a, i, j", sides), f32(3, 5, n))
        turned = (letters, f"f32[3, {n}, 5] order(0, 2, 1)", f"f32[3, {n}, 7] order(2, 0, 1)")
        cases.add(f"mix_turned_{n}", mixed(5, 7, "a, j, PLACE", "a, j, i", turned), f32(3, 5, n))
    for before, after in ((1, 1), (1, 9), (9, 2), (30, 67), (1000, 1999)):
        sides = (f"a: 4, b: 3, i: {after}", f"f32[3, 4, {before}] row", f"f32[4, 3, {after}] row")
        text = mixed(before, after, "b, a, PLACE", "a, b, i", sides)
        cases.add(f"mix_lines_{before}_{after}", text, f32(3, 4, before))
    for n in (7, 8, 40, 300):
        turned = (f"a: 2, j: {n}, i: 37", f"f32[2, {n}, 20] order(0, 2, 1)", f"f32[2, {n}, 37] row")
        text = mixed(20, 37, "a, j, PLACE", "a, j, i", turned)
        cases.add(f"mix_into_rows_{n}", text, f32(2, 20, n))
    # Weights that depend on something else, and a sum that is shared.
    cases.add("mix_by_another_letter", """
        input x f32[9, 16] row
        output y f32[14, 16] row
        stage i: 14, j: 16
        %0 = index j
        %1 = cast f32 %0
        %2 = load x (9 * i // 14, j)
        %3 = mul %2 %1
        %4 = load x (min(8, 9 * i // 14 + 1), j)
        %5 = mul %4 %1
        %6 = add %3 %5
        store y (i, j) %6
        """, f32(9, 16))
    cases.add("mix_of_two_inputs", """
        input x f32[9, 16] row
        input z f32[9, 16] row
        output y f32[14, 16] row
        stage i: 14, j: 16
        %0 = const f32 0.25
        %1 = load x (9 * i // 14, j)
        %2 = mul %1 %0
        %3 = load z (9 * i // 14, j)
        %4 = mul %3 %0
        %5 = add %2 %4
        store y (i, j) %5
        """, f32(9, 16), f32(9, 16))
    return cases
