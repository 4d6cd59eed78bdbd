"""Every program of program_cases on every instruction set, against the interpreter."""

from __future__ import annotations

import functools

import native_lib
import numpy as np
import pytest
from program_cases import CASES

from onnx_fusion.program import interpret, parse_program

BY_NAME = {case.name: case for case in CASES}


@functools.cache
def expected(name: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    case = BY_NAME[name]
    inputs = case.inputs()
    return inputs, interpret(parse_program(case.text), inputs)


def assert_close(got: np.ndarray, want: np.ndarray, case) -> None:
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    if got.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    # A sum's error is relative to its terms, so near zero to the tensor's range.
    finite = want[np.isfinite(want)]
    scale = float(np.abs(finite).max(initial=0.0)) if "dot" in case.text else 1.0
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-6 * case.loose * max(scale, 1.0))


def test_the_chosen_instruction_set_is_one_of_the_machine():
    runs = native_lib.isas()
    if native_lib.EMULATED in runs:
        assert native_lib.emulated().isa in native_lib.ISAS
        return
    assert native_lib.isa() in runs
    assert "base" in runs or "neon" in runs


@pytest.mark.parametrize("name", BY_NAME)
def test_equals_the_interpreter(name):
    case = BY_NAME[name]
    inputs, want = expected(name)
    for isa in native_lib.isas():
        got = native_lib.server(isa).run(case.text, inputs, 1)
        for g, w in zip(got, want, strict=True):
            assert_close(g, w, case)
        # Threads and constant inputs change how it is run, not what.
        got = native_lib.server(isa).run(case.text, inputs, 3, range(1, len(inputs)))
        for g, w in zip(got, want, strict=True):
            assert_close(g, w, case)
