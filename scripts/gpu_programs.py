"""Programs of the tests on a device, by our kernels and by libraries, against the interpreter."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from gpu_device import Device, DeviceError, run

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests")]


def check_programs(
    device: Device, patterns: Sequence[str], left: Callable[[], float]
) -> tuple[int, int, list[str]]:
    """Return how many programs of the tests are right, how many read extents, and what is wrong.

    `patterns` are parts of their names; without any it is all cases, and one program of each
    schedule and type. It ends when no seconds are `left`, and says so.
    """
    from cuda_programs import PROGRAMS
    from program_cases import CASES
    from test_cuda_schedules import difference
    from test_native_cases import assert_close

    from onnx_fusion.program import interpret, parse_program

    found: list = [*PROGRAMS, *CASES]
    if patterns:
        found = [one for one in found if any(p in one.name for p in patterns)]
    else:
        kinds = {(p.schedules, p.device.tf32, p.inputs[0].dtype): p for p in PROGRAMS}
        found = [*kinds.values(), *CASES]
    right, host, wrong = 0, 0, []
    for one in found:
        if left() < 1:
            wrong.append(f"{one.name} and what follows: no time left")
            break
        own = hasattr(one, "schedules")  # else a case
        inputs = one.inputs if own else one.inputs()
        parsed = parse_program(one.text)
        want = [np.asarray(w) for w in interpret(parsed, inputs)]
        try:
            got = run(device, one.text, inputs, want, own and one.device.tf32)
            for g, w, t in zip(got, want, parsed.outputs, strict=True):
                if not own:
                    assert_close(g, w, one)
                elif not (far := difference(g, w, str(t.dtype))) <= one.tolerance:
                    raise AssertionError(f"it is {far:.1e} off, of {one.tolerance:.1e} allowed")
            right += 1
        except DeviceError as error:
            if "decides about shapes" in str(error):
                host += 1
            else:
                wrong.append(f"{one.name}: {error}")
        except AssertionError as error:
            wrong.append(f"{one.name}: {str(error).strip().splitlines()[0]}")
    return right, host, wrong


FAR = {"f32": 1e-4, "f16": 2e-3, "bf16": 1.6e-2}
"""Of a result's range: as far as native/cuda/trial.cc lets a library's lie from our kernels'."""


def check_calls(
    device: Device, patterns: Sequence[str], every: int, left: Callable[[], float]
) -> tuple[int, int, list[str]]:
    """Return how many of the tests' products and convolutions (each `every`th) are right as the
    libraries make them, how many are not offered to one, and what is wrong.

    Descriptors of odd shapes meet the libraries nowhere else. NaNs must stay NaNs. `patterns` are
    parts of names, as for programs.
    """
    from cuda_library import inputs_of
    from test_cuda_blas import CASES as PRODUCTS
    from test_cuda_blas import dense
    from test_cuda_dnn import RESTS, SHAPES
    from test_cuda_schedules import difference

    from onnx_fusion.program import interpret, parse_program

    cases = [(str(p[:4]), dense(*p[:4])) for p in PRODUCTS]
    cases += [(str(c), c.text()) for c in (*SHAPES, *RESTS)]
    if patterns:
        cases = [(name, text) for name, text in cases if any(p in name for p in patterns)]
    right, none, wrong = 0, 0, []
    for name, text in cases[::every]:
        if left() < 1:
            wrong.append(f"{name} and what follows: no time left")
            break
        parsed, feed = parse_program(text), inputs_of(text)
        dtype = str(parsed.outputs[0].dtype)
        try:
            want = [np.asarray(w) for w in interpret(parsed, list(feed.values()))]
            got = run(device, text, list(feed.values()), want, forced=True)[0]
            far = difference(got, want[0], dtype)
            feed["x"].reshape(-1)[7] = np.nan if dtype != "bf16" else 0x7FC0
            lost = ~_nans(run(device, text, list(feed.values()), want, forced=True)[0], dtype)
            lost &= _nans(np.asarray(interpret(parsed, list(feed.values()))[0]), dtype)
            if far <= FAR[dtype] and not lost.any():
                right += 1
            else:
                wrong.append(f"{name}: error {far:.0e}, {lost.sum()} NaNs lost")
        except DeviceError as error:
            if "nothing is offered" in str(error):
                none += 1
            else:
                wrong.append(f"{name}: {error}")
    return right, none, wrong


def _nans(array: np.ndarray, dtype: str) -> np.ndarray:
    from cuda_programs import widen

    return np.isnan(widen(array, dtype))
