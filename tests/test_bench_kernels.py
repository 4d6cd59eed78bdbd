"""scripts/bench_kernels.py: its cases run and agree with ONNX Runtime, and the peak is one."""

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import bench_kernels
import kernel_cases
import numpy as np

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("case", [
    kernel_cases.matmul(3, 5, 7, False, RNG), kernel_cases.chain(1000, RNG),
    kernel_cases.softmax(3, 40, RNG), kernel_cases.layer_norm(4, 24, RNG),
    kernel_cases.conv(8, 9, 12, 3, 1, 1, "last", False, RNG),
    kernel_cases.conv(8, 9, 8, 3, 2, 8, "row", True, RNG),
], ids=lambda case: case.name)  # fmt: skip
def test_a_case_computes_what_its_operators_do(case):
    own, other = bench_kernels.measure(case, 1, 2)
    assert own > 0 and other > 0 and case.flops > 0 and case.moved > 0


def test_the_peak_is_above_what_a_kernel_reaches():
    """A product that fits the second-level cache gets near to it, and not beyond."""
    case = kernel_cases.matmul(64, 256, 256, True, RNG)
    own, _ = bench_kernels.measure(case, 1, 3)
    peak = bench_kernels.peak(1)
    assert 1e9 < case.flops / own < 1.15 * peak


def test_two_threads_copy_and_multiply():
    assert bench_kernels.peak(2) > 0 and bench_kernels.copy_rate(1e6) > 1e8


def test_a_compiled_loop_is_timed_beside_a_chain(monkeypatch):
    case = kernel_cases.chain(1000, RNG)
    monkeypatch.setenv("CC", "no-such-compiler")
    assert bench_kernels.loop_seconds(case) is None
    monkeypatch.delenv("CC")
    if shutil.which("cc"):
        assert 0 < bench_kernels.loop_seconds(case) < 1
    assert bench_kernels.loop_seconds(kernel_cases.softmax(3, 40, RNG)) is None
