"""Upper halves of vector registers are not in use when a kernel has run: whoever runs SSE code next
on the thread (ONNX Runtime's DFT) took 2 to 3 times as long. `native_lib` asks after every run."""

import native_lib
import numpy as np
import pytest

TEXT = """tile_program 1
input x0 f32[M, 400] row
input x1 f32[400] row
temp t0 f32[M] row
output y0 f32[M, 400] row
stage i: M, k: 400
%0 = load x0 (i, k)
%1 = reduce_sum %0 over k
store t0 (i) %1
stage i: M, j: 400
%0 = load x1 (j)
%1 = load x0 (i, j)
%2 = load t0 (i)
%3 = sub %1 %2
%4 = load x0 (i, j - 1) else 0
%5 = load t0 (i) else 0
%6 = sub %4 %5
%7 = load x0 (i, 0) else 0
%8 = sub %7 %5
%9 = select (j - 1 < 0) %8 %6
%10 = sub %3 %9
%11 = mul %0 %10
store y0 (i, j) %11
"""


@pytest.mark.parametrize("isa", native_lib.isas())
@pytest.mark.parametrize("rows", (1, 2, 3, 23))
def test_a_row_alone_behind_a_sum(isa, rows):
    rng = np.random.default_rng(rows)
    x, w = (rng.uniform(-1, 1, s).astype(np.float32) for s in ((rows, 400), 400))
    (got,) = native_lib.server(isa).run(TEXT, [x, w])
    centred = x.astype(np.float64) - x.sum(axis=1, keepdims=True, dtype=np.float64)
    before = np.concatenate([centred[:, :1], centred[:, :-1]], axis=1)
    np.testing.assert_allclose(got, w * (centred - before), rtol=1e-4, atol=2e-5)
