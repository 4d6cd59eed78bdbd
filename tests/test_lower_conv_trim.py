"""Dilated windows on small images: taps that lie outside at every position are not lowered, and
tiles of rows that read nothing but padding are not multiplied."""

import native_lib
import numpy as np
import onnx.parser
import pytest
from onnx import numpy_helper

from onnx_fusion.api import plan_programs
from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(8)
CASES = (  # channels, filters, extent, kernel, dilation, padding, stride
    (24, 16, 16, 3, 24, 24, 1), (8, 4, 9, 3, 30, 33, 1), (8, 8, 9, 3, 8, 8, 2),
    (480, 40, 16, 3, 12, 12, 1), (200, 40, 10, 3, 6, 6, 1), (8, 8, 9, 5, 4, 8, 1),
)  # fmt: skip


def convolve(x, w, dilation, padding, stride):
    """Return the convolution of one image in float64."""
    padded = np.pad(x.astype(np.float64), [(0, 0)] + [(padding, padding)] * 2)
    kernel = w.shape[-1]
    count = (padded.shape[-1] - (kernel - 1) * dilation - 1) // stride + 1
    out = np.zeros((w.shape[0], count, count))
    end = stride * (count - 1) + 1
    for r in range(kernel):
        for c in range(kernel):
            top, left = r * dilation, c * dilation
            window = padded[:, top : top + end : stride, left : left + end : stride]
            out += np.einsum("oc,chw->ohw", w[:, :, r, c].astype(np.float64), window)
    return out


@pytest.mark.parametrize("case", CASES)
def test_dilated_windows(case):
    channels, filters, extent, kernel, dilation, padding, stride = case
    model = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,{channels},{extent},{extent}] x) => (float[1,A,B,C] y) {{
            y = Conv <dilations = [{dilation}, {dilation}], strides = [{stride}, {stride}],
                pads = [{padding}, {padding}, {padding}, {padding}]> (x, w) }}""")
    x = RNG.uniform(-1, 1, (1, channels, extent, extent)).astype(np.float32)
    w = RNG.uniform(-1, 1, (filters, channels, kernel, kernel)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(w, "w"))
    (made,) = plan_programs(model, policy="all").lowered
    text = made.program
    want = convolve(x[0], w, dilation, padding, stride)
    (meant,) = interpret(parse_program(text), [x, w])
    assert np.abs(meant[0] - want).max() < 1e-4 * np.abs(want).max()
    for isa in native_lib.isas():
        for threads in (1, 3):
            (got,) = native_lib.server(isa).run(text, [x, w], threads, (1,))
            assert np.abs(got[0] - want).max() < 2e-5 * np.abs(want).max(), (isa, threads)


def test_what_is_outside_everywhere_is_no_tap():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[1,4,16,16] x, float[4,4,3,3] w) => (float[1,A,B,C] y) {
            y = Conv <dilations = [24, 24], pads = [24, 24, 24, 24]> (x, w) }""")
    (made,) = plan_programs(model, policy="all").lowered
    assert "(i0, r0, 1, 1)" in made.program and "r1" not in str(made.program)
