"""Stages that hand images to each other band by band, against NumPy in float64, on every ISA.

Images between stages are larger than what is run one stage after the other.
"""

from __future__ import annotations

import native_lib
import numpy as np
import pytest
from test_native_contract import convolve

from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(22)
ORDER = "order(0, 2, 3, 1)"


class Chain:
    """A program of convolutions on channels-last images, and what it means."""

    def __init__(self, channels: int, height: int, width: int, batch: int = 1) -> None:
        self.image = self.array(batch, channels, height, width)
        self.inputs = [self.image]
        self.value = self.image.astype(np.float64)
        self.stages: list[str] = []
        self.shapes: list[tuple[int, ...]] = []
        self.name = "x0"

    @staticmethod
    def array(*shape: int) -> np.ndarray:
        return RNG.uniform(-1, 1, shape).astype(np.float32)

    def add(self, array: np.ndarray) -> str:
        self.inputs.append(array)
        return f"x{len(self.inputs) - 1}"

    def store(self, letters: str, body: str, value: np.ndarray) -> Chain:
        source, self.name = self.name, f"t{len(self.stages)}"
        body = body.replace("SOURCE", source).replace("TARGET", self.name)
        self.stages.append(f"stage {letters}\n{body}")
        self.value = value
        self.shapes.append(value.shape)
        return self

    def conv(
        self,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        dilation: int = 1,
        pad: tuple[int, int] | None = None,
        depthwise: bool = False,
        more: np.ndarray | None = None,
    ) -> Chain:
        """Convolve, add a bias, clip; `more` is added last."""
        n, c = self.value.shape[:2]
        pad = (dilation * (kernel // 2),) * 2 if pad is None else pad
        w = self.array(channels, 1 if depthwise else c, kernel, kernel) / kernel
        b = self.array(channels)
        y = convolve(
            self.value, w, (stride,) * 2, [pad] * 2, (dilation,) * 2, c if depthwise else 1
        )
        y = np.clip(y + b.reshape(-1, 1, 1).astype(np.float64), -0.5, 1.5)
        over = "r, s" if depthwise else "c, r, s"
        extents = "" if depthwise else f"c: {c}, "
        p, q = (f"{stride} * {at} + {dilation} * {t} - {pad[0]}" for at, t in ("pr", "qs"))
        body = (
            f"%0 = load SOURCE (n, {'o' if depthwise else 'c'}, {p}, {q}) else 0\n"
            f"%1 = load {self.add(w)} (o, {0 if depthwise else 'c'}, r, s)\n"
            f"%2 = dot %0 %1 over {over}\n%3 = load {self.add(b)} (o)\n%4 = add %2 %3\n"
            "%5 = const f32 -0.5\n%6 = max %4 %5\n%7 = const f32 1.5\n%8 = min %6 %7\n"
        )
        if more is not None:
            body += f"%9 = load {self.add(more)} (n, o, p, q)\n%10 = add %8 %9\n"
            y = y + more.astype(np.float64)
        body += f"store TARGET (n, o, p, q) %{8 if more is None else 10}"
        sizes = f"n: {n}, o: {channels}, p: {y.shape[2]}, q: {y.shape[3]}"
        return self.store(f"{sizes}, {extents}r: {kernel}, s: {kernel}", body, y)

    def scale(self) -> Chain:
        """Multiply each channel by a number, and add the image moved down by one line."""
        n, c, h, w = self.value.shape
        gate = self.array(c)
        moved = np.concatenate([np.full((n, c, 1, w), 0.5), self.value[:, :, :-1]], axis=2)
        body = (
            f"%0 = load SOURCE (n, c, h, w)\n%1 = load {self.add(gate)} (c)\n%2 = mul %0 %1\n"
            "%3 = load SOURCE (n, c, h - 1, w) else 0.5\n%4 = add %2 %3\n"
            "store TARGET (n, c, h, w) %4"
        )
        value = self.value * gate.reshape(-1, 1, 1).astype(np.float64) + moved
        return self.store(f"n: {n}, c: {c}, h: {h}, w: {w}", body, value)

    def pool(self) -> Chain:
        """The largest of 3 x 3, every other."""
        n, c, h, w = self.value.shape
        padded = np.pad(self.value, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
        parts = [padded[:, :, r : r + h : 2, s : s + w : 2] for r in range(3) for s in range(3)]
        value = np.max(parts, axis=0)
        body = (
            "%0 = load SOURCE (n, c, 2 * p + r - 1, 2 * q + s - 1) else -inf\n"
            "%1 = reduce_max %0 over r, s\nstore TARGET (n, c, p, q) %1"
        )
        sizes = f"n: {n}, c: {c}, p: {value.shape[2]}, q: {value.shape[3]}, r: 3, s: 3"
        return self.store(sizes, body, value)

    def check(self, plans: int = 1, order: str = ORDER, poison: bool = False) -> None:
        """`poison`: what another run leaves in memory must not matter."""
        lines = ["tile_program 1", f"input x0 f32{list(self.image.shape)} {ORDER}"]
        arrays = [np.ascontiguousarray(np.moveaxis(self.image, 1, -1))]
        for k, a in enumerate(self.inputs[1:], 1):
            image = a.ndim == 4 and a.shape == self.value.shape
            lines.append(f"input x{k} f32{list(a.shape)} {ORDER if image else 'row'}")
            arrays.append(np.ascontiguousarray(np.moveaxis(a, 1, -1)) if image else a)
        last = len(self.stages) - 1
        for k, shape in enumerate(self.shapes[:-1]):
            lines.append(f"temp t{k} f32{list(shape)} {ORDER}")
        lines.append(f"output y f32{list(self.shapes[-1])} {order}")
        text = "\n".join([*lines, *self.stages]).replace(f"store t{last} ", "store y ") + "\n"
        want = self.value if order == "row" else np.moveaxis(self.value, 1, -1)
        assert native_lib.Kernel(text).plans(arrays) == plans
        weights = tuple(k for k, a in enumerate(self.inputs) if k and a.shape != self.value.shape)
        for isa in native_lib.isas():
            for threads, constant in ((1, weights), (3, ())):
                if poison:
                    nowhere = [np.full_like(arrays[0], np.nan), *arrays[1:]]
                    native_lib.server(isa).run(text, nowhere, threads, constant)
                (got,) = native_lib.server(isa).run(text, arrays, threads, constant)
                scale = max(1.0, float(np.abs(want).max()))
                np.testing.assert_allclose(got, want, atol=3e-6 * scale, rtol=0, err_msg=isa)


@pytest.mark.parametrize("height", [61, 64])
@pytest.mark.parametrize("kernel,stride", [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_inverted_residual(kernel, stride, height):
    chain = Chain(7, height, 53).conv(60).conv(60, kernel, stride, depthwise=True)
    more = Chain.array(1, 9, *chain.value.shape[2:])
    chain.conv(9, more=more).check()


@pytest.mark.parametrize("order", [ORDER, "row"])
@pytest.mark.parametrize("size,kernel,stride", [(132, 4, 2), (180, 6, 2), (132, 2, 2), (72, 4, 1)])
def test_even_windows(size, kernel, stride, order):
    pad = (kernel // 2 - 1 + (stride == 1), kernel // 2 - 1)
    for first in (True, False):
        chain = Chain(32 if first else 8, size, size)
        if not first:
            chain.conv(32)
        chain.conv(32, kernel, stride, pad=pad, depthwise=True).conv(16)
        chain.check(order=order, poison=True)


def test_a_row_layout_behind_bands():
    Chain(8, 60, 50).conv(64).conv(64, 3, depthwise=True).conv(24).check(order="row")


def test_borders_of_several_lines():
    Chain(8, 40, 50).conv(80).conv(80, 5, 1, 2, depthwise=True).conv(8).check()


def test_a_border_on_one_side_and_a_larger_one_than_the_window():
    Chain(8, 50, 60).conv(64).conv(64, 3, 1, pad=(0, 2), depthwise=True).check()
    Chain(8, 50, 60).conv(64).conv(64, 3, 2, pad=(4, 5), depthwise=True).check()


def test_lines_that_nobody_reads():
    Chain(8, 70, 60).conv(64).conv(16, 1, 3).check()


def test_five_stages():
    chain = Chain(8, 64, 40).conv(48, 3).conv(48, 3, depthwise=True)
    chain.conv(24).conv(72).conv(72, 3, 2, depthwise=True).check()


def test_pooling_and_pointwise_stages():
    Chain(3, 90, 70).conv(32, 7).pool().check()
    Chain(40, 80, 60).conv(40, 3, depthwise=True).conv(8).check()


def test_a_line_that_an_elementwise_stage_reads_twice_is_no_band():
    Chain(40, 80, 60).conv(40, 3, depthwise=True).scale().conv(8).check(plans=2)


def test_lines_of_an_output_that_no_band_has_made_yet():
    """The first stage's result is an output, too, and the third reads it further down."""
    text = f"""tile_program 1
input x f32[1, 8, 80, 40] {ORDER}
input w f32[48, 8] row
input v f32[48, 3, 3] row
temp t f32[1, 48, 80, 40] {ORDER}
temp u f32[1, 48, 80, 40] {ORDER}
output z f32[1, 48, 80, 40] {ORDER}
output y f32[1, 8, 80, 40] {ORDER}
stage o: 48, p: 80, q: 40, c: 8
%0 = load x (0, c, p, q)
%1 = load w (o, c)
%2 = dot %0 %1 over c
store t (0, o, p, q) %2
store z (0, o, p, q) %2
stage o: 48, p: 80, q: 40, r: 3, s: 3
%0 = load t (0, o, p + r - 1, q + s - 1) else 0
%1 = load v (o, r, s)
%2 = dot %0 %1 over r, s
store u (0, o, p, q) %2
stage o: 8, p: 80, q: 40, c: 48
%0 = load u (0, c, p, q)
%1 = load w (c, o)
%2 = dot %0 %1 over c
%3 = load z (0, o, p + 9, q) else 0
%4 = add %2 %3
store y (0, o, p, q) %4
"""
    arrays = [Chain.array(1, 80, 40, 8), Chain.array(48, 8), Chain.array(48, 3, 3)]
    assert native_lib.Kernel(text).plans(arrays) == 2
    want = interpret(parse_program(text), arrays)
    for isa in native_lib.isas():
        for threads, constant in ((1, (1, 2)), (3, ())):
            got = native_lib.server(isa).run(text, arrays, threads, constant)
            for g, w in zip(got, want, strict=True):
                np.testing.assert_allclose(g, w, atol=1e-5, rtol=0, err_msg=isa)


def test_images_of_a_batch_are_lines():
    Chain(8, 50, 40, batch=5).conv(64).conv(64, 3, depthwise=True).check()


def test_small_images_are_no_bands():
    Chain(8, 20, 20).conv(32).conv(32, 3, depthwise=True).conv(8).check(plans=3)


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_two_products_of_no_rows(rows):
    """A detector's head where nothing was detected."""
    arrays = [Chain.array(rows, 16), Chain.array(16, 24), Chain.array(24, 4)]
    text = (
        "tile_program 1\ninput x f32[N, 16] row\ninput v f32[16, 24] row\ninput w f32[24, 4] row\n"
        "temp t f32[N, 24] row\noutput y f32[N, 4] row\n"
        "stage n: N, j: 24, k: 16\n%0 = load x (n, k)\n%1 = load v (k, j)\n"
        "%2 = dot %0 %1 over k\nstore t (n, j) %2\n"
        "stage n: N, j: 4, k: 24\n%0 = load t (n, k)\n%1 = load w (k, j)\n"
        "%2 = dot %0 %1 over k\nstore y (n, j) %2\n"
    )
    want = arrays[0] @ arrays[1] @ arrays[2]
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, arrays, 2, (1, 2))
        assert got.shape == (rows, 4)
        np.testing.assert_allclose(got, want, atol=1e-5, err_msg=isa)


def test_constants_that_differ_from_line_to_line():
    """Lines are groups of channels: a plan of the first ones has packed their weights."""
    text = """tile_program 1
input x f32[1, 8, 28, 28] row
input w f32[96, 8] row
input b f32[96] row
temp t f32[1, 32, 2352] row
temp u f32[1, 32, 2352] row
output y f32[1, 96, 28, 28] order(0, 2, 3, 1)
stage g: 32, m: 3, p: 28, q: 28, r: 8
%0 = load x (0, r, p, q)
%1 = load w (3 * g + m, r)
%2 = dot %0 %1 over r
%3 = load b (3 * g + m)
%4 = add %2 %3
store t (0, g, 784 * m + 28 * p + q) %4
stage g: 32, i: 2352
%0 = load t (0, g, i)
%1 = reduce_max %0 over i
%2 = sub %0 %1
store u (0, g, i) %2
stage g: 32, m: 3, p: 28, q: 28
%0 = load u (0, g, 784 * m + 28 * p + q)
store y (0, 3 * g + m, p, q) %0
"""
    x, w, b = (Chain.array(*shape) for shape in ((1, 8, 28, 28), (96, 8), (96,)))
    made = np.einsum("nrpq,or->opq", x.astype(np.float64), w) + b.reshape(-1, 1, 1)
    made -= made.reshape(32, -1).max(1).repeat(3).reshape(-1, 1, 1)
    want = made.transpose(1, 2, 0)[None]
    for isa in native_lib.isas():
        for constant in ((1, 2), (2,), ()):
            (got,) = native_lib.server(isa).run(text, [x, w, b], 1, constant)
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=0, err_msg=f"{isa} {constant}")
