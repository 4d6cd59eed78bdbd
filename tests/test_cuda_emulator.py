"""That the emulator sees what is wrong with a kernel, and that plans refuse what a device lacks."""

from __future__ import annotations

import dataclasses
import re

import cuda_emulator
import numpy as np
import pytest
from cuda_emulator import CudaError, Device
from cuda_programs import BY_SCHEDULE, random
from test_cuda_schedules import BY_NAME, difference

from onnx_fusion.program import interpret, parse_program

BARRIER = "__syncthreads();"


def without(
    plan: cuda_emulator.Plan, which: int, pattern: str = re.escape(BARRIER), number: int = 0
) -> cuda_emulator.Plan:
    """Return the plan with one barrier of a text gone, under a name of its own."""
    source = plan.sources[number]
    found = list(re.finditer(pattern, source["unit"]))[which]
    entry = f"{source['entry']}_without_{which}"
    unit = source["unit"][: found.start()] + source["unit"][found.end() :]
    changed = {"entry": entry, "unit": unit.replace(source["entry"], entry)}
    sources = (*plan.sources[:number], changed, *plan.sources[number + 1 :])
    return dataclasses.replace(plan, sources=sources)


# A row's sum comes after its maximum, so the barrier before the maximum's exchange guards nothing.
# Of rows in parts, the second text combines what the first leaves before it reduces itself.
NEEDED = {
    "softmax_f32_4099": (0, 1, 3),
    "split_softmax_f32": (0, 1, 3),
    "split_normed_f32_5x2x25921": (0, 1),
    "split_normed_columns_f32_900x33": (0, 1),
    "softmax_columns_f32_129x8": (0, 1, 3),
    "transpose_f32_2x33x65": (0,),
    "product_f32_nt_70x72x96": (0, 1),
    "product_f16_tn_70x72x96": (0, 1),
    "attention_f16_1x2x1x70x130x64": (0, 1),
    "attention_tf32_1x2x1x70x130x64": (0, 1),
    "attention_f32_1x2x1x70x130x64": (0, 1, 2),
}


@pytest.mark.parametrize("name", NEEDED)
def test_a_removed_barrier_is_caught(name):
    p = BY_NAME[name]
    plan = cuda_emulator.plan(p.text, p.inputs, p.device)
    number = int(name.startswith("split_"))
    assert plan.sources[number]["unit"].count(BARRIER) == max(NEEDED[name]) + 1
    want = interpret(parse_program(p.text), p.inputs)[0]
    dtype = str(parse_program(p.text).outputs[0].dtype)
    machine = cuda_emulator.machine()
    broken = [without(plan, k, number=number) for k in NEEDED[name]]
    machine.build((s["entry"], s["unit"]) for b in (plan, *broken) for s in b.sources)
    for seed in range(3):
        assert difference(machine.run(plan, p.inputs, seed)[0], want, dtype) <= p.tolerance
        for b in broken:
            assert not difference(machine.run(b, p.inputs, seed)[0], want, dtype) <= p.tolerance


@pytest.mark.parametrize(
    "name", ["product_f16_nn_70x72x96", "product_bf16_nt_70x72x96", "product_split_bf16_33x1000x40"]
)
@pytest.mark.parametrize("pattern", [r"wait_copies<\d>\(\);", BARRIER])
def test_copies_that_nobody_waits_for_are_caught(name, pattern):
    p = BY_NAME[name]
    plan = cuda_emulator.plan(p.text, p.inputs, p.device)
    broken = without(plan, 0, re.escape(pattern) if pattern == BARRIER else pattern)
    want = interpret(parse_program(p.text), p.inputs)[0]
    dtype = str(parse_program(p.text).outputs[0].dtype)
    for seed in range(3):
        assert (
            difference(cuda_emulator.machine().run(plan, p.inputs, seed)[0], want, dtype)
            <= p.tolerance
        )
        got = cuda_emulator.machine().run(broken, p.inputs, seed)[0]
        assert not difference(got, want, dtype) <= p.tolerance


def test_a_warp_reads_the_weights_of_its_other_lanes_after_they_wrote_them():
    p = BY_NAME["attention_f32_1x2x1x70x130x64"]
    plan = cuda_emulator.plan(p.text, p.inputs, p.device)
    broken = without(plan, 0, re.escape("__syncwarp();"))
    want = interpret(parse_program(p.text), p.inputs)[0]
    for seed in range(3):
        got = cuda_emulator.machine().run(broken, p.inputs, seed)[0]
        assert not difference(got, want, "f32") <= p.tolerance


@pytest.mark.parametrize("bytes_of_a_block", [63 << 10, 64 << 10])
def test_an_attention_without_room_for_its_tiles_is_three_launches(bytes_of_a_block):
    p = BY_NAME["attention_f32_2x1x1x64x64x128"]
    device = dataclasses.replace(p.device, arch=75, shared_bytes=bytes_of_a_block)
    plan = cuda_emulator.plan(p.text, p.inputs, device)
    assert len(plan.launches) == (1 if bytes_of_a_block == 64 << 10 else 3)
    assert plan.schedules()[0] == ("attention_f32" if len(plan.launches) == 1 else "product")


REDUCED = """tile_program 1
input x f32[M, N] row
output y f32[M] row
stage i: M, j: N
%0 = load x (i, j)
%1 = reduce_sum %0 over j
store y (i) %1
"""


@pytest.mark.parametrize(
    ("over", "rows", "length", "parts"),
    [
        ("j", 1, 1 << 24, 432),
        ("j", 54, 1 << 17, 8),
        ("j", 55, 1 << 17, 1),
        ("j", 1, 1 << 16, 4),
        ("j", 1, (1 << 16) - 8, 1),
        ("i", 64, 1 << 20, 216),
        ("i", 1728, 512, 4),
        ("i", 1729, 512, 1),
        ("i", 64, 511, 1),
    ],
)
def test_few_long_rows_are_split_among_the_processors(over, rows, length, parts):
    text, shape = REDUCED, (rows, length)
    if over == "i":
        text = text.replace("f32[M] row", "f32[N] row").replace("y (i)", "y (j)")
        text, shape = text.replace("over j", "over i"), (length, rows)
    plan = cuda_emulator.plan(text, [np.broadcast_to(np.float32(0), shape)])
    schedule = "block_rows" if over == "j" else "columns"
    assert plan.schedules() == ([f"{schedule}_split", "split_rows"] if parts > 1 else [schedule])
    assert plan.launches[0]["grid"][1] == parts
    assert plan.workspace == (-(-rows * parts * 4 // 256) * 256 if parts > 1 else 0)


def test_a_strict_attention_divides_before_it_multiplies():
    p = BY_NAME["attention_f32_1x2x1x70x130x64"]
    strict = p.text.replace("tile_program 1", "tile_program 1 strict", 1)
    assert "attention_f32" not in cuda_emulator.plan(strict, p.inputs, p.device).schedules()


def test_an_attention_of_halves_that_no_tensor_core_takes_is_by_fmaf():
    p = BY_NAME["attention_bf16_1x2x2x33x65x40"]
    plan = cuda_emulator.plan(p.text, p.inputs, dataclasses.replace(p.device, arch=75))
    assert plan.schedules() == ["attention_f32"]
    want = interpret(parse_program(p.text), p.inputs)[0]
    assert difference(cuda_emulator.machine().run(plan, p.inputs)[0], want, "bf16") <= p.tolerance


HANG = """
extern "C" void f_hang(int* out) {
  if (threadIdx.x == 0) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}
"""
BESIDE = 'extern "C" void f_beside(int* out) { out[threadIdx.x] = 1; }'


def launch(entry: str, unit: str, size: int, threads: int) -> cuda_emulator.Plan:
    text = f"tile_program 1\noutput y i32[{size}] row\nstage i: {size}\n%0 = const i32 1\n"
    return cuda_emulator.Plan(
        text + "store y (i) %0\n", ({"entry": entry, "unit": unit},),
        ({"source": 0, "grid": [1, 1, 1], "block": [threads, 1, 1], "shared": 0,
          "arguments": [["output", 0]]},), 0, False,
    )  # fmt: skip


def test_a_shuffle_without_all_lanes_is_an_error():
    with pytest.raises(CudaError, match="a lane of the warp has left"):
        cuda_emulator.machine().run(launch("f_hang", HANG, 32, 32), [])


def test_a_write_beside_a_tensor_is_an_error():
    with pytest.raises(CudaError, match="memory around a tensor was written"):
        cuda_emulator.machine().run(launch("f_beside", BESIDE, 31, 32), [])


def test_too_large_a_grid_is_refused_with_the_numbers():
    p = BY_SCHEDULE["points"]
    with pytest.raises(CudaError, match=r"stage on line \d+: needs a grid of \d+ blocks, .* has 0"):
        cuda_emulator.plan(p.text, p.inputs, Device(max_grid_x=0))


def test_too_much_shared_memory_is_refused_with_the_numbers():
    p = BY_SCHEDULE["product"]
    with pytest.raises(CudaError, match=r"needs \d+ bytes of shared memory in a block, .* has 64"):
        cuda_emulator.plan(p.text, p.inputs, Device(shared_bytes=64))


def test_an_index_outside_is_refused_before_any_text():
    text = (
        "tile_program 1\ninput x f32[N] row\noutput y f32[N] row\nstage i: N\n"
        "%0 = load x (i + 1)\nstore y (i) %0\n"
    )
    with pytest.raises(CudaError, match=r"line 5: index 0 of x spans \[1, 4\], outside a dim of 4"):
        cuda_emulator.plan(text, [random("f32", 4)])


def test_an_index_read_from_a_tensor_is_checked():
    text = (
        "tile_program 1\ninput x f32[V, 4] row\ninput k i64[S] row\noutput y f32[S, 4] row\n"
        "stage i: S, j: 4\n%0 = load k (i)\n%1 = load x (%0, j)\nstore y (i, j) %1\n"
    )
    x = random("f32", 3, 4)
    good, bad = np.array([2, 0, 1, 1]), np.array([2, 0, 3, 1])
    machine = cuda_emulator.machine()
    plan = cuda_emulator.plan(text, [x, good])
    assert plan.may_fail
    np.testing.assert_array_equal(machine.run(plan, [x, good])[0], x[good])
    for k in (bad, np.array([0, -1, 0, 0]), np.array([2**62, 0, 0, 0])):
        with pytest.raises(CudaError, match="line 7: an index read from a tensor is out of range"):
            machine.run(plan, [x, k])


def test_memory_at_odd_addresses_is_read_by_elements():
    x = random("f32", 4, 8)
    text = "tile_program 1\ninput x f32[M, 8] row\noutput y f32[M, 8] row\nstage i: M, j: 8\n"
    text += "%0 = load x (i, j)\n%1 = exp %0\nstore y (i, j) %1\n"
    assert "Pack<" in cuda_emulator.plan(text, [x]).sources[0]["body"]
    assert "Pack<" not in cuda_emulator.plan(text, [x], Device(aligned=False)).sources[0]["body"]


def test_equal_classes_of_shapes_have_one_text():
    text = (
        "tile_program 1\ninput x f32[M, N] row\noutput y f32[M, N] row\nstage i: M, j: N\n"
        "%0 = load x (i, j)\n%1 = reduce_max %0 over j\n%2 = sub %0 %1\nstore y (i, j) %2\n"
    )
    entries = [
        cuda_emulator.plan(text, [random("f32", *shape)]).sources[0]["entry"]
        for shape in ((5, 128), (77, 64), (5, 65), (77, 97))
    ]
    assert entries[0] == entries[1] and entries[2] == entries[3] and entries[0] != entries[2]


def test_no_name_of_a_program_is_in_its_text():
    text = (
        "tile_program 1\ninput evil f32[BAD, 3] row\noutput worse f32[BAD, 3] row\n"
        "stage vile: BAD, mean: 3\n%0 = load evil (vile, mean)\n%1 = neg %0\n"
        "store worse (vile, mean) %1\n"
    )
    unit = cuda_emulator.plan(text, [random("f32", 2, 3)]).sources[0]["unit"]
    assert not re.search("evil|worse|vile|mean|BAD", unit)


def test_a_large_convolution_is_a_product_of_matrices():
    """Its multiplications are more than 2^31, what it counts is not."""
    text = (
        "tile_program 1\ninput x f32[1, 256, 80, 80] row\ninput w f32[256, 256, 3, 3] row\n"
        "output y f32[1, 256, 80, 80] row\nstage o: 256, p: 80, q: 80, c: 256, r: 3, s: 3\n"
        "%0 = load x (0, c, p + r - 1, q + s - 1) else 0\n%1 = load w (o, c, r, s)\n"
        "%2 = dot %0 %1 over c, r, s\nstore y (0, o, p, q) %2\n"
    )
    inputs = [np.empty((1, 256, 80, 80), np.float32), np.empty((256, 256, 3, 3), np.float32)]
    assert cuda_emulator.plan(text, inputs).schedules() == ["product"]
