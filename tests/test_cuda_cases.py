"""Every program of program_cases as CUDA text in the emulator, against the interpreter."""

from __future__ import annotations

import cuda_emulator
import numpy as np
import pytest
from program_cases import CASES
from test_native_cases import assert_close

from onnx_fusion.program import interpret, parse_program

BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def plans() -> dict[str, cuda_emulator.Plan]:
    """Return the plans of all cases, their texts compiled together."""
    found = {name: cuda_emulator.plan(case.text, case.inputs()) for name, case in BY_NAME.items()}
    cuda_emulator.machine().build(
        (s["entry"], s["unit"]) for p in found.values() for s in p.sources
    )
    return found


@pytest.mark.parametrize("name", BY_NAME)
def test_equals_the_interpreter(name, plans):
    case = BY_NAME[name]
    inputs = case.inputs()
    want = interpret(parse_program(case.text), inputs)
    got = cuda_emulator.machine().run(plans[name], inputs, seed=len(case.text))
    for g, w in zip(got, want, strict=True):
        assert_close(np.asarray(g), w, case)
