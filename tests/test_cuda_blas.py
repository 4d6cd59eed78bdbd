"""Products that cuBLASLt makes where it is faster: plans with it, and whole sessions with a
stand-in."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_fake import cuda_session
from cuda_library import ONNX, aligned, inputs_of, is_used, model_of, results, run
from cuda_programs import TOLERANCE, Writer, program, random
from op_models import fused, model
from test_cuda_schedules import BY_NAME, difference

from onnx_fusion.program import interpret, parse_program
from onnx_fusion.runtime.library import get_library_path
from onnx_fusion.runtime.machine import make_ptx

PRODUCTS = [p for name, p in BY_NAME.items() if name.startswith(("product", "attention_f32"))]
M, N, K = 72, 128, 128


def offers_products(plan) -> bool:
    """Return whether something is offered to cuBLASLt, which is library 0."""
    return any(offer[1] == 0 for offer in plan.offers)


def taken(maker: int) -> list:
    """Return plans of the schedules' programs that the library has a part in."""
    found = []
    for p in PRODUCTS:
        device = dataclasses.replace(p.device, maker=maker, cache_bytes=1 << 14)
        plan = cuda_emulator.plan(p.text, p.inputs, device)
        if offers_products(plan):
            found.append((p, plan))
    return found[maker::3]


@pytest.mark.parametrize("maker", [1, 2])
def test_plans_with_calls_compute_the_same(maker):
    found = taken(maker)
    machine = cuda_emulator.machine()
    machine.build((s["entry"], s["unit"]) for _, plan in found for s in plan.sources)
    calls = 0
    for p, plan in found:
        calls += plan.schedules().count("library")
        want = interpret(parse_program(p.text), p.inputs)[0]
        dtype = str(parse_program(p.text).outputs[0].dtype)
        assert difference(machine.run(plan, p.inputs)[0], want, dtype) <= p.tolerance, p.name
    assert len(found) >= 15 and calls >= len(found) * maker


def test_what_is_offered_depends_on_how_operands_lie():
    for p in PRODUCTS:
        offered = offers_products(cuda_emulator.plan(p.text, p.inputs, p.device))
        odd = dataclasses.replace(p.device, aligned=False)
        assert not cuda_emulator.plan(p.text, p.inputs, odd).offers
        if "attention" not in p.name and "_tn_" not in p.name:
            assert offered, p.name


def test_a_pointwise_convolution_is_a_product():
    """With channels last, its pixels are rows."""
    w = Writer("f16")
    dot = w.value(f"dot {w.load('x (n, c, p, q)')} {w.load('f (o, c, 0, 0)')} over c")
    w.store("y (n, o, p, q)", w.value(f"max {dot} {w.value('const f32 0')}"))
    text = program(
        "input x f16[2, 32, 6, 5] order(0, 2, 3, 1)", "input f f16[24, 32, 1, 1] row",
        "output y f16[2, 24, 6, 5] order(0, 2, 3, 1)", "stage n: 2, o: 24, p: 6, q: 5, c: 32",
        w.lines,
    )  # fmt: skip
    inputs = (random("f16", 2, 6, 5, 32), random("f16", 24, 32, 1, 1))
    plan = cuda_emulator.plan(text, inputs, cuda_emulator.Device(maker=1))
    assert plan.schedules() == ["library", "library_rest"]
    assert plan.launches[0]["call"]["sizes"] == [60, 24, 32, 1]
    want = interpret(parse_program(text), inputs)[0]
    assert difference(cuda_emulator.machine().run(plan, inputs)[0], want, "f16") <= 1e-3


def dense(dtype: str, layout: str = "nn", rest: str = "", batches: int = 0) -> str:
    """Return a product with what comes after it: names of REST one after the other."""
    b, many = ("b, ", "2, ") if batches else ("", "")
    w = Writer(dtype)
    x = w.load(f"x ({b}k, i)" if layout[0] == "t" else f"x ({b}i, k)")
    y = w.load(f"w ({b}j, k)" if layout[1] == "t" else f"w ({b}k, j)")
    value = w.value(f"dot {x} {y} over k")
    for name in rest.split():
        if name == "bias":
            value = w.value(f"add {value} {w.load('c (j)')}")
        elif name == "residual":
            value = w.value(f"add {w.load(f'r ({b}i, j)')} {value}")
        elif name == "relu":
            value = w.value(f"max {value} {w.value('const f32 0')}")
        else:
            half = w.value(f"mul {value} {w.value('const f32 0.5')}")
            inner = w.value(f"mul {value} {w.value('const f32 0.70710678')}")
            more = w.value(f"add {w.value(f'erf {inner}')} {w.value('const f32 1')}")
            value = w.value(f"mul {half} {more}")
    w.store(f"y ({b}i, j)", value)
    return program(
        f"input x {dtype}[{many}{f'{K}, {M}' if layout[0] == 't' else f'{M}, {K}'}] row",
        f"input w {dtype}[{many}{f'{N}, {K}' if layout[1] == 't' else f'{K}, {N}'}] row",
        f"input c {dtype}[{N}] row", f"input r {dtype}[{many}{M}, {N}] row",
        f"output y {dtype}[{many}{M}, {N}] row",
        f"stage {'b: 2, ' if batches else ''}i: {M}, j: {N}, k: {K}", w.lines,
    )  # fmt: skip


CASES = [
    ("f32", "nn", "", 0, "f32 NN 1"),
    ("f16", "nt", "bias", 0, "f16 TN bias 1"),
    ("bf16", "tn", "bias relu", 0, "f32 NT 1"),  # its ReLU loses NaNs
    ("f16", "nn", "bias residual", 0, "f16 NN c bias 1"),
    ("f16", "nn", "bias gelu", 0, "f32 NN 1"),
    ("f32", "tt", "residual", 2, "f32 TT c 2"),
    ("bf16", "nn", "gelu residual", 2, "f32 NN 2"),
]


@pytest.mark.parametrize(("dtype", "layout", "rest", "batches", "call"), CASES)
def test_a_faster_library_makes_the_product(blas, fake, dtype, layout, rest, batches, call):
    text = dense(dtype, layout, rest, batches)
    made = cuda_session(model_of(text))
    before = blas.calls()
    for _ in range(2):
        assert run(made, text) <= TOLERANCE[dtype]
    assert blas.calls() > before and blas.last() == call
    # Settled: a run is one call, no wait and no event.
    before = blas.calls(), fake.calls("wait"), fake.calls("event")
    assert run(made, text) <= TOLERANCE[dtype]
    assert (blas.calls() - 1, fake.calls("wait"), fake.calls("event")) == before


TEXT = dense("f32", "nn", "bias")


def test_a_slower_library_is_not_chosen(blas, monkeypatch):
    monkeypatch.setenv("FAKE_CUBLASLT_MS", "40")
    made = cuda_session(model_of(TEXT))
    before = blas.calls()
    assert not is_used(blas, made, TEXT) and blas.calls() > before


def test_the_fastest_algorithm_is_chosen(blas, monkeypatch):
    monkeypatch.setenv("FAKE_CUBLASLT_MS", "12")
    assert is_used(blas, cuda_session(model_of(TEXT)), TEXT)  # the second takes 6, our kernel 8
    monkeypatch.setenv("FAKE_CUBLASLT_VERSION", "0")
    monkeypatch.setenv("FAKE_CUBLASLT_ALGORITHMS", "1")
    again = Path(os.environ["ONNX_FUSION_CUBLASLT"]).with_name("again.so")
    again.symlink_to(os.environ["ONNX_FUSION_CUBLASLT"])
    monkeypatch.setenv("ONNX_FUSION_CUBLASLT", str(again))
    assert not is_used(blas, cuda_session(model_of(TEXT)), TEXT)


def test_what_a_library_computes_otherwise_is_not_asked_again(blas, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_CUBLASLT_WRONG", "1")
    made = cuda_session(model_of(TEXT))
    assert not is_used(blas, made, TEXT)
    expected = "something else than our kernel on a stand-in for a product of sizes 72, 128, 128, 1"
    assert capfd.readouterr().err.count(expected) == 1
    monkeypatch.delenv("FAKE_CUBLASLT_WRONG")
    before = blas.calls()
    assert not is_used(blas, cuda_session(model_of(TEXT)), TEXT) and blas.calls() == before
    other = dense("f32", "nt", "relu")
    assert is_used(blas, cuda_session(model_of(other)), other)


def test_a_library_that_fails_is_done_without(blas, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_CUBLASLT_FAILS", "1")
    assert not is_used(blas, cuda_session(model_of(TEXT)), TEXT)
    monkeypatch.delenv("FAKE_CUBLASLT_FAILS")
    other = dense("f32", "nt", "relu")
    made = cuda_session(model_of(other))
    assert is_used(blas, made, other)
    monkeypatch.setenv("FAKE_CUBLASLT_FAILS", "1")  # later, in a run
    assert run(made, other) <= TOLERANCE["f32"]
    assert "CUBLAS_STATUS_EXECUTION_FAILED (13); our own kernels" in capfd.readouterr().err
    monkeypatch.delenv("FAKE_CUBLASLT_FAILS")
    assert not is_used(blas, made, other)


@pytest.mark.parametrize("how", ["entry", "empty", "missing", "none"])
def test_a_session_without_the_library_runs(blas, monkeypatch, how):
    if how == "empty":
        monkeypatch.setenv("ONNX_FUSION_CUBLASLT", "")
    elif how == "missing":
        monkeypatch.setenv("ONNX_FUSION_CUBLASLT", "/nowhere/libcublasLt.so")
    elif how == "none":
        monkeypatch.setenv("FAKE_CUBLASLT_ALGORITHMS", "0")
    before = blas.calls()
    entries = {"cuda_blas": "0"} if how == "entry" else {}
    assert (
        not is_used(blas, cuda_session(model_of(TEXT), **entries), TEXT) and blas.calls() == before
    )


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_nans_stay_nans(blas, dtype):
    text = dense(dtype, "nn", "bias relu")
    made = cuda_session(model_of(text))
    assert is_used(blas, made, text)
    feed = inputs_of(text)
    feed["x"][3, 5] = np.nan
    before = blas.calls()
    found = results(made, text, feed)[0]
    assert blas.calls() == before + 1
    assert np.isnan(found[3]).all() and not np.isnan(np.delete(found, 3, 0)).any()


def test_nothing_is_tried_while_a_stream_is_captured(blas, monkeypatch, fake):
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    made = cuda_session(model_of(TEXT))
    before = blas.calls(), fake.calls("wait")
    assert run(made, TEXT) <= TOLERANCE["f32"]
    assert (blas.calls(), fake.calls("wait")) == before
    monkeypatch.delenv("FAKE_CUDA_CAPTURING")
    assert is_used(blas, made, TEXT)
    monkeypatch.setenv("FAKE_CUDA_CAPTURING", "1")
    assert is_used(blas, made, TEXT)  # a call can be captured


@pytest.mark.parametrize("value", [0, np.inf])
def test_inputs_that_tell_nothing_settle_nothing(blas, value):
    made = cuda_session(model_of(TEXT))
    feed = inputs_of(TEXT)
    feed["x"][:], feed["c"][:] = value, 0
    before = blas.calls()
    run(made, TEXT, feed)
    assert blas.calls() == before
    assert is_used(blas, made, TEXT)


def test_infinities_are_results_too(blas):
    text = dense("f32", "nn", "residual")
    made = cuda_session(model_of(text))
    feed = inputs_of(text)
    feed["r"][:, ::3] = -np.inf
    with np.errstate(invalid="ignore"):
        for _ in range(2):
            run(made, text, feed)
        before = blas.calls()
        run(made, text, feed)
    assert blas.calls() == before + 1


def test_each_product_of_a_region_has_its_choice(blas, fake):
    w = Writer("f16")
    dot = w.value(f"dot {w.load('x (i, k)')} {w.load('w (k, j)')} over k")
    first = [*w.lines, f"%{w.count} = sigmoid {dot}", f"store t (i, j) %{w.count}"]
    w = Writer("f16")
    inner = w.value("load t (i, j)")
    dot = w.value(f"dot {inner} {w.load('v (j, l)')} over j")
    w.store("y (i, l)", w.value(f"add {dot} {w.load('c (l)')}"))
    text = program(
        f"input x f16[{M}, {K}] row", f"input w f16[{K}, {N}] row", f"input v f16[{N}, {N}] row",
        f"input c f16[{N}] row", f"temp t f32[{M}, {N}] row", f"output y f16[{M}, {N}] row",
        f"stage i: {M}, j: {N}, k: {K}", first, f"stage i: {M}, l: {N}, j: {N}", w.lines,
    )  # fmt: skip
    made = cuda_session(model_of(text))
    before = blas.asked(), fake.compiled()
    for _ in range(2):
        assert run(made, text) <= TOLERANCE["f16"]
    # Each algorithm of each is asked for once, and what follows the first is compiled once.
    assert (blas.asked() - before[0], fake.compiled() - before[1]) == (6, 1)
    before = blas.calls(), fake.calls("launch")
    assert run(made, text) <= TOLERANCE["f16"]
    assert (blas.calls() - before[0], fake.calls("launch") - before[1]) == (2, 1)


def test_parts_are_tried_where_sums_leave_the_cache(blas, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_CUDA_CACHE", str(1 << 16))
    rows, terms = 300, 32
    text = dense("f16", "nn", "gelu").replace(f"[{M}", f"[{rows}").replace(f"i: {M}", f"i: {rows}")
    text = text.replace(f"{M}, {K}]", f"{rows}, {K}]").replace(f", {K}]", f", {terms}]", 1)
    text = text.replace(f"w f16[{K}", f"w f16[{terms}").replace(f"k: {K}", f"k: {terms}")
    made = cuda_session(model_of(text))
    before = blas.calls()
    assert run(made, text) <= TOLERANCE["f16"]
    assert blas.calls() > before + 3 and "something else" not in capfd.readouterr().err


def test_sizes_nearby_share_a_choice(blas, fake):
    text = TEXT.replace(str(M), "R")
    made = cuda_session(model([fused(["x", "w", "c", "r"], ["y"], text)], {
        "x": (ONNX["f32"], ["R", K]), "w": (ONNX["f32"], [K, N]), "c": (ONNX["f32"], [N]),
        "r": (ONNX["f32"], ["R", N]),
    }, {"y": (ONNX["f32"], None)}))  # fmt: skip
    rng = np.random.default_rng(0)

    def go(rows: int) -> None:
        x, w = (aligned(rng.uniform(-1, 1, s).astype("f")) for s in ((rows, K), (K, N)))
        c, r = (aligned(rng.uniform(-1, 1, s).astype("f")) for s in ((N,), (rows, N)))
        y = aligned(np.empty((rows, N), "f"))
        binding = made.io_binding()
        for name, a in (("x", x), ("w", w), ("c", c), ("r", r)):
            binding.bind_input(name, "cpu", 0, ONNX["f32"], a.shape, a.ctypes.data)
        binding.bind_output("y", "cpu", 0, ONNX["f32"], y.shape, y.ctypes.data)
        made.run_with_iobinding(binding)
        np.testing.assert_allclose(y, x @ w + c, rtol=1e-4, atol=1e-4)

    go(72)
    before = fake.calls("event")
    go(76)
    assert fake.calls("event") == before
    go(72)
    go(120)
    assert fake.calls("event") > before


def test_ptx_in_the_model_has_what_follows_a_call(blas, monkeypatch):
    text = dense("f16", "nn", "bias gelu")
    made = model_of(text)
    ptx = make_ptx(text, [list(a.shape) for a in inputs_of(text).values()])
    assert "library_rest_" in ptx
    made.graph.node[0].attribute.add(name="ptx", type=3, s=ptx.encode())
    monkeypatch.setenv("ONNX_FUSION_NVRTC", "/nowhere/libnvrtc.so")
    opened = cuda_session(made, trust_ptx=True)
    for _ in range(2):
        assert run(opened, text) <= TOLERANCE["f16"]
    before = blas.calls()
    assert run(opened, text) <= TOLERANCE["f16"] and blas.calls() == before + 1


SCRIPT = """
import sys
sys.path[:0] = [{tests!r}]
import onnx
from cuda_fake import cuda_session
from cuda_library import ONNX, aligned, inputs_of, is_used, model_of, opened, run
from cuda_library import Library, model_of, run
from test_cuda_blas import TEXT
import ctypes, os
driver = ctypes.CDLL(os.environ["ONNX_FUSION_LIBCUDA"])
made = cuda_session(model_of(TEXT))
assert run(made, TEXT) <= 4e-6
tried = driver.fake_cuda_calls(b"event")
calls = Library(os.environ["ONNX_FUSION_CUBLASLT"], "cublaslt").calls()
print(tried > 0, calls > 0)
"""


def test_choices_are_kept_on_disk(blas, tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent))

    def go() -> str:
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert go() == "True True"
    assert go() == "False True"
    for file in (tmp_path / "cuda").iterdir():  # damaged
        data = bytearray(file.read_bytes())
        if b"choice 2\n" in data:
            data[-2] ^= 1
            file.write_bytes(data)
    assert go() == "True True"


def test_nothing_of_the_library_is_left(blas):
    before = blas.objects()
    made = cuda_session(model_of(TEXT))
    assert is_used(blas, made, TEXT) and blas.objects() > before
    del made
    assert blas.objects() == before


def test_the_library_is_not_linked():
    listed = subprocess.run(["ldd", get_library_path()], capture_output=True, text=True).stdout
    assert not any(name in listed for name in ("cuda", "cublas", "nvrtc", "cudnn"))
