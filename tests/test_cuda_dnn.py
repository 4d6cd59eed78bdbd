"""Convolutions that cuDNN makes where it is faster: plans with it, and whole sessions with a
stand-in."""

from __future__ import annotations

import dataclasses

import cuda_emulator
import numpy as np
import pytest
from cuda_fake import cuda_session
from cuda_library import inputs_of, is_used, model_of, results, run
from cuda_programs import TOLERANCE, Writer, program
from test_cuda_schedules import difference

from onnx_fusion.program import interpret, parse_program

ORDERS = {"first": "row", "last": "order(0, 2, 3, 1)"}


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution with what comes after it: names of `rest` one after the other."""

    dtype: str = "f32"
    images: int = 2
    groups: int = 1
    channels: int = 8
    filters: int = 16
    size: tuple[int, ...] = (12, 10)
    taps: tuple[int, ...] = (3, 3)
    step: tuple[int, ...] = (1, 1)
    dilation: tuple[int, ...] = (1, 1)
    before: tuple[int, ...] = (1, 1)
    after: tuple[int, ...] = (1, 1)
    x: str = "last"
    w: str = "first"
    y: str = "last"
    rest: str = ""
    strict: bool = False

    def text(self) -> str:
        """Return its program; depthwise ones have neither `o` nor `c`."""
        depthwise = self.groups > 1 and self.channels == self.filters == 1
        space = range(len(self.size))
        out = [
            (n + a + b - (t - 1) * d - 1) // s + 1
            for n, a, b, t, d, s in zip(
                self.size, self.before, self.after, self.taps, self.dilation, self.step, strict=True
            )
        ]
        group = self.groups > 1
        channel = "g" if depthwise else f"{self.channels} * g + c" if group else "c"
        made = "g" if depthwise else f"{self.filters} * g + o" if group else "o"
        seen = [
            f"{s} * p{i} + {d} * r{i} - {b}"
            for i, (s, d, b) in enumerate(zip(self.step, self.dilation, self.before, strict=True))
        ]
        w = Writer(self.dtype)
        guard = " else 0" if any((*self.before, *self.after)) else ""
        a = w.value(f"load x (n, {channel}, {', '.join(seen)}){guard}")
        if self.dtype != "f32":
            a = w.value(f"cast f32 {a}")
        taps = [f"r{i}" for i in space]
        b = w.load(f"w ({made}, {'0' if depthwise else 'c'}, {', '.join(taps)})")
        value = w.value(f"dot {a} {b} over {', '.join(taps if depthwise else ['c', *taps])}")
        place = f"n, {made}, {', '.join(f'p{i}' for i in space)}"
        for name in self.rest.split():
            if name == "bias":
                value = w.value(f"add {value} {w.load(f'c ({made})')}")
            elif name == "residual":
                value = w.value(f"add {w.load(f'r ({place})')} {value}")
            elif name == "relu":
                value = w.value(f"max {value} {w.value('const f32 0')}")
            else:
                value = w.value(f"mul {value} {w.value(f'sigmoid {value}')}")
        w.store(f"y ({place})", value)
        last = "order(" + ", ".join(map(str, [0, *[2 + i for i in space], 1])) + ")"
        order = {"first": "row", "last": last}
        all_made = self.groups * self.filters
        result = ", ".join(map(str, [self.images, all_made, *out]))
        letters = [f"n: {self.images}"] + [f"g: {self.groups}"] * group
        letters += [f"o: {self.filters}"] * (not depthwise)
        letters += [f"p{i}: {n}" for i, n in enumerate(out)]
        letters += [f"c: {self.channels}"] * (not depthwise)
        letters += [f"r{i}: {n}" for i, n in enumerate(self.taps)]
        images = [self.images, self.groups * self.channels, *self.size]
        lines = [
            f"input x {self.dtype}[{', '.join(map(str, images))}] {order[self.x]}",
            f"input w {self.dtype}[{all_made}, {self.channels}, {', '.join(map(str, self.taps))}] "
            f"{order[self.w]}",
            f"input c {self.dtype}[{all_made}] row",
            f"input r {self.dtype}[{result}] {order[self.y]}",
            f"output y {self.dtype}[{result}] {order[self.y]}",
            f"stage {', '.join(letters)}",
        ]
        text = program(*lines, w.lines)
        return text.replace("tile_program 1", "tile_program 1 strict") if self.strict else text


def of_axes(axes: int, **more) -> Conv:
    """Return a convolution over so many axes of space."""
    size = {1: (24,), 3: (5, 6, 7)}[axes]
    ones = (1,) * axes
    return Conv(
        size=size, taps=(3,) * axes, step=ones, dilation=ones, before=ones, after=ones, **more
    )


SHAPES = [
    Conv(), Conv(x="first", y="first"), Conv(w="last"), Conv(x="first", y="last", channels=3),
    Conv(dtype="f16"), Conv(dtype="bf16", x="first", y="first"), Conv(images=1, dtype="f16"),
    Conv(step=(2, 1), dtype="f16"), Conv(dilation=(2, 3), before=(2, 3), after=(2, 3)),
    Conv(before=(0, 0), after=(1, 1), step=(2, 2)), Conv(before=(2, 0), after=(1, 3)),
    Conv(before=(0, 0), after=(0, 0)), Conv(before=(0, 0), after=(-3, -2)),
    Conv(groups=4, channels=4, filters=4, x="first", y="first"),
    Conv(groups=4, channels=2, filters=8, dtype="f16"),
    Conv(groups=24, channels=1, filters=1), Conv(groups=24, channels=1, filters=1, dtype="bf16"),
    Conv(groups=16, channels=1, filters=1, x="first", y="first", dtype="f16"),
    Conv(groups=16, channels=1, filters=2),
    Conv(taps=(1, 1), step=(2, 2), before=(0, 0), after=(0, 0)),
    Conv(taps=(1, 1), before=(0, 0), after=(0, 0), x="first", y="first"),
    Conv(taps=(4, 4), step=(4, 4), size=(16, 12), before=(0, 0), after=(0, 0)),
    Conv(channels=1, filters=24), Conv(taps=(3, 1), before=(1, 0), after=(1, 0)),
    of_axes(1), of_axes(1, x="first", y="first", dtype="f16"), of_axes(3), of_axes(3, dtype="bf16"),
]  # fmt: skip
RESTS = [
    Conv(rest=rest, dtype=dtype, x=order, y=order)
    for rest in ("bias", "bias relu", "bias residual", "residual bias relu", "relu", "silu")
    for dtype, order in (("f32", "first"), ("f16", "last"), ("bf16", "last"))
]
RESTS += [
    Conv(groups=4, channels=4, filters=8, rest="bias relu", x="first", y="first"),
    Conv(groups=4, channels=4, filters=4, rest="residual bias", dtype="f16"),
    Conv(groups=16, channels=1, filters=1, rest="bias"),
]


def planned(case: Conv, maker: int = 1, **numbers):
    text = case.text()
    inputs = list(inputs_of(text).values())
    return cuda_emulator.plan(text, inputs, cuda_emulator.Device(maker=maker, **numbers)), inputs


def test_plans_with_calls_compute_the_same():
    machine = cuda_emulator.machine()
    found = [(case, *planned(case)) for case in (*SHAPES, *RESTS)]
    machine.build((s["entry"], s["unit"]) for _, plan, _ in found for s in plan.sources)
    for case, plan, inputs in found:
        if not plan.offers:
            # Halves have no sums in float32 that something else could follow.
            assert case.dtype != "f32" and case.rest in ("relu", "silu"), case
            continue
        assert plan.schedules()[0] == "library", case
        want = np.asarray(interpret(parse_program(plan.text), inputs)[0])
        assert (
            difference(machine.run(plan, inputs)[0], want, case.dtype) <= TOLERANCE[case.dtype]
        ), case


def sizes(case: Conv, name: str) -> list[int]:
    plan, _ = planned(case)
    return plan.launches[0]["call"][name][: len(case.size)]


def test_zeros_around_are_the_same_on_both_sides_where_that_is_as_well():
    even = Conv(step=(2, 2), after=(0, 0))  # 12 and 10 in steps of 2: the last zeros are not read
    assert sizes(even, "before") == sizes(even, "after") == [1, 1]
    assert sizes(Conv(before=(2, 0), after=(1, 3)), "after") == [1, 3]
    cut = Conv(before=(0, 0), after=(-3, -2))
    assert sizes(cut, "after") == [0, 0] and sizes(cut, "in") == [9, 8]


def test_filters_without_a_window_lie_as_the_images_do():
    one = Conv(taps=(1, 1), step=(2, 2), before=(0, 0), after=(0, 0), channels=8)
    assert planned(one)[0].launches[0]["call"]["b"][1:5] == [8, 1, 8, 8]
    first = dataclasses.replace(one, x="first", y="first")
    assert planned(first)[0].launches[0]["call"]["b"][1:5] == [8, 1, 1, 1]


@pytest.mark.parametrize(("old", "new"), [
    ("else 0", "else 1"),  # not zeros
    ("p0 + 1 * r0 - 1", "p0 - 1 * r0 + 1"),  # backwards
    ("c, 1 * p0", "7 - c, 1 * p0"),
    ("w (o, c, r0, r1)", "w (o, c, 2 - r0, r1)"),
    ("w (o, c, r0, r1)", "w (o, c, r0, r1) else 0"),
    ("dot %0", "dot %2"),
])  # fmt: skip
def test_what_is_no_convolution_is_not_offered(old, new):
    text = Conv().text()
    if old == "w (o, c, r0, r1)" and "else" in new:
        text, old, new = text.replace(old, "w (o, c, r0, r1 + 1) else 0"), "", ""
    if old.startswith("dot"):
        text = text.replace("%2 = dot %0", "%2 = neg %0\n%3 = dot %2").replace(") %2", ") %3")
    text = text.replace(old, new) if old else text
    inputs = list(inputs_of(text).values())
    assert not cuda_emulator.plan(text, inputs, cuda_emulator.Device()).offers
    assert planned(Conv())[0].offers and not planned(Conv(), aligned=False)[0].offers


def test_what_decides_about_engines_is_in_the_call():
    flags = {strict: planned(Conv(strict=strict), tf32=True)[0] for strict in (False, True)}
    assert [flags[s].launches[0]["call"]["flags"][0] for s in (False, True)] == [1, 0]
    both = Conv(rest="bias residual", strict=True)
    assert planned(both)[0].schedules() == [
        "library",
        "library_rest",
    ]  # the program's order of sums
    assert planned(dataclasses.replace(both, strict=False))[0].schedules() == ["library"]
    relu = Conv(rest="bias relu", strict=True)  # whose ReLU may make 0 of a NaN
    assert planned(relu)[0].schedules() == ["library", "library_rest"]


def test_the_sums_alone_can_be_the_librarys():
    machine = cuda_emulator.machine()
    for case in (Conv(rest="bias relu"), Conv(rest="bias", groups=4, channels=4, filters=4)):
        plan, inputs = planned(case, maker=3)
        assert plan.schedules() == ["library", "library_rest"]
        want = np.asarray(interpret(parse_program(plan.text), inputs)[0])
        assert difference(machine.run(plan, inputs)[0], want, "f32") <= TOLERANCE["f32"]


BIG = {"channels": 32, "filters": 32, "images": 1}
CASES = [
    (Conv(**BIG), "f32 NHWC engine 7"),
    (Conv(**BIG, x="first", y="first", dtype="f16"), "f16 NCHW engine 7"),
    (Conv(**BIG, dtype="bf16", rest="bias relu"), "bf16 NHWC bias relu engine 7"),
    (Conv(**BIG, dtype="f16", rest="residual bias relu"), "f16 NHWC c bias relu engine 7"),
    (Conv(**BIG, rest="bias silu", step=(1, 1), after=(2, 2)), "f32 NHWC engine 7"),
    (Conv(groups=4, channels=16, filters=16, images=1), "f32 NHWC groups 4 engine 7"),
    (Conv(groups=4, channels=16, filters=16, images=1, rest="bias"),
     "f32 NHWC groups 4 bias engine 7"),
    (Conv(groups=64, channels=1, filters=1, images=16, dtype="f16"), "f16 NHWC groups 64 engine 7"),
    (of_axes(1, channels=128, filters=128, dtype="f16"), "f16 NHWC engine 7"),
    (of_axes(3, channels=16, filters=16, images=1), "f32 NHWC engine 7"),
]


@pytest.mark.parametrize(("case", "call"), CASES)
def test_a_faster_library_makes_the_convolution(dnn, fake, case, call):
    text = case.text()
    made = cuda_session(model_of(text))
    assert is_used(dnn, made, text) and dnn.last() == call
    # Settled: a run is one call, no wait and no event.
    before = dnn.calls(), fake.calls("wait"), fake.calls("event")
    assert run(made, text) <= TOLERANCE[case.dtype]
    assert (dnn.calls() - 1, fake.calls("wait"), fake.calls("event")) == before


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_nans_stay_nans(dnn, dtype):
    text = Conv(**BIG, dtype=dtype, rest="bias relu").text()
    made = cuda_session(model_of(text))
    assert is_used(dnn, made, text) and "relu" in dnn.last()
    feed = inputs_of(text)
    feed["x"][0, 4, 5, 0] = np.nan
    before = dnn.calls()
    found = np.isnan(results(made, text, feed)[0])
    assert dnn.calls() == before + 1
    assert found[0, 3:6, 4:7].all() and found.sum() == 9 * 32


def test_sums_are_the_librarys_where_it_can_do_no_more(dnn, monkeypatch):
    monkeypatch.setenv("FAKE_CUDNN_BARE", "1")
    text = Conv(**BIG, rest="bias relu").text()
    assert is_used(dnn, cuda_session(model_of(text)), text)
    assert dnn.last() == "f32 NHWC engine 7"
    half = Conv(**BIG, rest="bias relu", dtype="f16").text()  # it has no sums of halves
    assert not is_used(dnn, cuda_session(model_of(half)), half)
