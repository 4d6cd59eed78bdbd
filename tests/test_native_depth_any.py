"""Depthwise convolution with windows of any width against NumPy in float64, on every ISA.

Widths lie around those of the pieces a line of taps is cut into (1 to 4) and of the widths that
have kernels of their own (1, 3, 5, 7, up to 128 taps).
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from test_native_depth import check


@pytest.mark.parametrize("width", [2, 4, 6, 8, 9, 10, 11, 13])
@pytest.mark.parametrize("outputs", [1, 2, 3, 4, 6, 7, 8, 15, 22])
@pytest.mark.parametrize("step", [1, 2])
def test_every_width_and_step(width, outputs, step):
    pad = (width // 2, (width - 1) // 2)
    shape = (1, 21, 3, (outputs - 1) * step + 1)
    check(shape, (3, width), (1, step), (1, 1), ((1, 1), pad))


@pytest.mark.parametrize("kernel", [(31, 31), (13, 13), (21, 5), (50, 3), (5, 40), (140, 1)])
@pytest.mark.parametrize("size", [(9, 9), (3, 16), (20, 8)])
@pytest.mark.parametrize("fill", [0.0, 0.5])
def test_large_windows_mostly_outside(kernel, size, fill):
    pads = tuple((k // 2, (k - 1) // 2) for k in kernel)
    check((1, 18, *size), kernel, (1, 1), (1, 1), pads, fill=fill)
    check((1, 16, *size), kernel, (2, 2), (1, 1), pads, "silu", fill=fill)


@pytest.mark.parametrize(
    "kernel,strides,dilations,pads",
    [
        ((4, 4), (4, 4), (1, 1), ((0, 0), (0, 0))),
        ((2, 2), (2, 2), (1, 1), ((0, 1), (1, 0))),
        ((7, 7), (3, 3), (1, 1), ((3, 3), (3, 3))),
        ((3, 3), (5, 5), (1, 1), ((2, 1), (1, 2))),
        ((3, 3), (3, 3), (2, 2), ((2, 2), (2, 2))),
        ((4, 5), (4, 6), (3, 4), ((3, 3), (9, 8))),
        ((3, 6), (1, 1), (1, 2), ((1, 1), (5, 5))),
        ((6, 6), (2, 2), (4, 4), ((9, 9), (9, 9))),
        ((3, 3), (1, 1), (12, 12), ((12, 12), (12, 12))),
        ((2, 2), (1, 1), (9, 11), ((20, 4), (30, 6))),
        ((11, 1), (1, 1), (1, 1), ((5, 5), (0, 0))),
        ((1, 11), (1, 1), (1, 1), ((0, 0), (5, 5))),
        ((2, 1), (2, 2), (1, 1), ((1, 0), (0, 0))),
        ((9, 9), (1, 1), (1, 1), ((0, 0), (0, 0))),
        ((4, 4), (1, 1), (1, 1), ((9, 9), (9, 9))),
    ],
)
@pytest.mark.parametrize("size", [(25, 27), (17, 9)])
def test_every_kind_of_window(kernel, strides, dilations, pads, size):
    for fill, layout in ((0.0, "last"), (-0.5, "row")):
        check((1, 18, *size), kernel, strides, dilations, pads, fill=fill, layout=layout)


@pytest.mark.parametrize("kernel", [(11, 1), (1, 11), (4, 1), (1, 4)])
@pytest.mark.parametrize("width", [1, 3, 4, 30])
def test_windows_of_one_side(kernel, width):
    pads = tuple((k // 2, k // 2) for k in kernel)
    for end, layout in (("relu", "last"), ("square", "last"), ("relu", "row")):
        check((2, 19, 12, width), kernel, (1, 1), (1, 1), pads, end, layout)
    check((2, 512, 5, width), kernel, (1, 1), (1, 1), pads)


@pytest.mark.parametrize("channels", [3, 4, 7, 8, 12, 15, 16, 17, 33, 80])
@pytest.mark.parametrize("end", ["hard_swish", "hard_swish_scaled", "silu", "square"])
def test_every_remainder_of_channels(channels, end):
    check((2, channels, 5, 10), (4, 4), (1, 1), (1, 1), ((1, 2), (2, 1)), end)


def test_other_ranks():
    for width in (2, 4, 9, 31, 150):
        check((2, 18, 40), (width,), (1,), (1,), ((width // 2, width // 2),))


def test_threads_that_outnumber_the_rows():
    check((1, 203, 2, 40), (5, 8), (1, 1), (1, 1), ((2, 2), (3, 4)))
    check((1, 203, 2, 40), (5, 8), (1, 1), (1, 1), ((2, 2), (3, 4)), "square", "row")


@pytest.mark.parametrize("fill", [0.0, 2.0])
def test_images_that_are_copied(fill):
    pads = ((2, 2), (3, 4))
    check((1, 512, 7, 9), (4, 8), (1, 1), (1, 1), pads, "hard_swish", fill=fill)
    check((2, 512, 12, 9), (5, 6), (2, 2), (1, 1), pads, "square", fill=fill)
    for channels, made in ((9, 2), (5, 3), (70, 4)):
        check((2, channels, 9, 13), (4, 6), (1, 2), (1, 1), pads, fill=fill, made=made)


def test_copies_that_would_be_too_large():
    pads = ((0, 149), (1, 148))
    check((1, 512, 4, 4), (2, 2), (1, 1), (150, 150), pads)
    check((1, 100, 4, 4), (2, 2), (1, 1), (150, 150), pads, made=2)


CROWDED = """tile_program 1
input x f32[1, 2, 16384] order(0, 2, 1)
input w f32[40000, 1, 2] row
output y f32[1, 40000, 2] order(0, 2, 1)
stage n: 1, c: 2, m: 20000, p: 2, t: 2
%0 = load x (0, c, 16382 * p + t)
%1 = load w (20000 * c + m, 0, t)
%2 = dot %0 %1 over t
store y (0, 20000 * c + m, p) %2
"""
SHARED = """tile_program 1
input x f32[1, 128, 8] order(0, 2, 1)
input w f32[128] row
output y f32[1, 128, 1] order(0, 2, 1)
stage n: 1, c: 128, p: 1, t: 2097152
%0 = load x (0, c, p + t) else 0
%1 = load w (c)
%2 = dot %0 %1 over t
store y (0, c, p) %2
"""
SCRIPT = """
import resource, sys
import numpy as np, native_lib
text, *shapes = eval(sys.stdin.read())
arrays = [np.ones(shape, np.float32) for shape in shapes]
native_lib.library()
held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held + (600 << 20),) * 2)
print(native_lib.run(text, arrays, 1, (1,))[0].ravel()[0])
"""


@pytest.mark.parametrize("text, shapes, want", [
    (CROWDED, [(1, 16384, 2), (40000, 1, 2)], "2.0"), (SHARED, [(1, 8, 128), (128,)], "8.0")],
    ids=["copies", "weights"])  # fmt: skip
def test_memory_is_bound_by_the_tensors(text, shapes, want):
    """Channels that make very many, and taps that share their weights."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], input=repr([text, *shapes]), cwd=Path(__file__).parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout.strip(), done.returncode) == (want, 0), done.stderr
