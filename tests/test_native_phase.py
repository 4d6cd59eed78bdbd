"""Transposed convolutions whose taps overlap, phase by phase, against float64, every ISA."""

from __future__ import annotations

import native_lib
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import onnx_fusion
from onnx_fusion.program import interpret, parse_program

RNG = np.random.default_rng(41)

CASES = {
    # name: x, filters, kernel, stride, pads, output padding, groups
    "4 by 2": ((2, 20, 9, 13), 24, (4, 4), 2, 1, 0, 1),
    "3 by 2": ((1, 17, 8, 5), 12, (3, 3), 2, 1, 1, 1),
    "5 by 2": ((1, 16, 7, 6), 40, (5, 5), 2, 2, 1, 1),
    "3 by 2 uncut": ((1, 8, 6, 7), 9, (3, 3), 2, 0, 0, 1),
    "one filter": ((1, 32, 12, 10), 1, (4, 4), 2, 1, 0, 1),
    "groups": ((1, 12, 9, 8), 4, (4, 4), 2, 1, 0, 3),
    "7 by 3": ((1, 10, 6, 9), 16, (7, 7), 3, 2, 0, 1),
    "16 by 8": ((1, 24, 30), 16, (16,), 8, 4, 0, 1),
    "12 by 5": ((2, 18, 21), 7, (12,), 5, 3, 1, 1),
    "3 by 2 in 3-D": ((1, 8, 4, 5, 3), 8, (3, 3, 3), 2, 1, 1, 1),
    "one input": ((1, 8, 1, 1), 8, (4, 4), 2, 1, 0, 1),
    "one input by 1": ((3, 20, 1, 1), 24, (4, 4), 1, 0, 0, 1),
    "one input in groups": ((2, 12, 1, 1), 4, (4, 3), 3, 1, 0, 3),
    "one line": ((1, 16, 1, 9), 12, (3, 3), 2, 1, 0, 1),
    "one input, more put out": ((1, 8, 1, 1), 8, (3, 3), 2, 0, 1, 1),
}


def scattered(
    x: np.ndarray, w: np.ndarray, stride: int, pads: int, extra: int, groups: int
) -> np.ndarray:
    """Return the transposed convolution in float64: every input adds its taps to the result."""
    x, w = x.astype(np.float64), w.astype(np.float64)
    kernel, inside = w.shape[2:], x.shape[1] // groups
    whole = [(n - 1) * stride + k + extra for n, k in zip(x.shape[2:], kernel, strict=True)]
    parts = []
    for g in range(groups):
        own = slice(g * inside, (g + 1) * inside)
        out = np.zeros((x.shape[0], w.shape[1], *whole))
        for tap in np.ndindex(*kernel):
            places = [
                slice(t, t + (n - 1) * stride + 1, stride)
                for t, n in zip(tap, x.shape[2:], strict=True)
            ]
            product = np.einsum("nc...,cm->nm...", x[:, own], w[(own, slice(None), *tap)])
            out[(slice(None), slice(None), *places)] += product
        parts.append(out)
    cut = [slice(pads, n - pads) for n in whole]
    return np.concatenate(parts, 1)[(slice(None), slice(None), *cut)]


def made(name: str) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """Return the tile program of a ConvTranspose and Relu, x, the weights, and the exact result."""
    shape, filters, kernel, stride, pads, extra, groups = CASES[name]
    rank = len(kernel)
    x = RNG.standard_normal(shape).astype(np.float32)
    w = (RNG.standard_normal((shape[1], filters, *kernel)) / 8).astype(np.float32)
    attrs = {"strides": [stride] * rank, "pads": [pads] * 2 * rank, "group": groups,
             "output_padding": [extra] * rank}  # fmt: skip
    nodes = [helper.make_node("ConvTranspose", ["x", "w"], ["c"], **attrs),
             helper.make_node("Relu", ["c"], ["y"])]  # fmt: skip
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, shape)], [info("y", 1, None)],
                              [numpy_helper.from_array(w, "w")])  # fmt: skip
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (node,) = onnx_fusion.optimize(proto, policy="all").graph.node
    assert list(node.input) == ["x", "w"]
    text = onnx.helper.get_node_attr_value(node, "program").decode()
    exact = scattered(x, w, stride, pads, extra, groups)
    return text, x, w, np.maximum(exact, 0)


@pytest.mark.parametrize("last", [False, True], ids=["row", "last"])
@pytest.mark.parametrize("name", CASES)
def test_phases_give_the_transposed_convolution(name, last):
    text, x, w, want = made(name)
    if last:
        rank = x.ndim
        order = f"order(0, {', '.join(map(str, range(2, rank)))}, 1)"
        lines = text.splitlines(keepends=True)
        for k, line in enumerate(lines):
            if line.startswith(("input x0", "output y0")):
                lines[k] = line.replace(" row", f" {order}")
        text = "".join(lines)
        x, want = (np.ascontiguousarray(np.moveaxis(a, 1, -1)) for a in (x, want))
    (read,) = interpret(parse_program(text), [x, w])
    np.testing.assert_allclose(read, want, rtol=1e-4, atol=1e-4)
    for isa in native_lib.isas():
        for threads, constant in ((1, (1,)), (3, (1,)), (1, ())):
            (got,) = native_lib.server(isa).run(text, [x, w], threads, constant)
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=2e-5, err_msg=f"{isa} {threads}")


def test_a_weight_that_no_tap_meets_meets_no_infinity():
    """The kernel's end is no multiple of the stride: the last phase has a tap less."""
    text, x, w, _ = made("3 by 2")
    x[0, 3, 2, 2] = np.inf
    (want,) = interpret(parse_program(text), [x, w])
    for isa in native_lib.isas():
        (got,) = native_lib.server(isa).run(text, [x, w], 1, (1,))
        assert (np.isfinite(got) == np.isfinite(want)).all()
