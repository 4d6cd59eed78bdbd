"""NVRTC compiles a text of every CUDA schedule and type for every architecture, without a spill."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys
from pathlib import Path

import cuda_emulator
import numpy as np
import pytest
from cuda_programs import PROGRAMS

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import nvrtc

if nvrtc.find_library() is None:
    pytest.skip("not run: nvidia-cuda-nvrtc is not installed", allow_module_level=True)

REGISTERS = {"attention": 168, "product": 255}
"""Of a thread at most, by schedule; 128 for all others, and where two blocks share a processor."""


def texts(arch: int) -> dict[str, tuple[str, str]]:
    """Return the last program's entry and text for each schedule and type."""
    found = {}
    for p in PROGRAMS:
        dtype = next(d for d in ("bf16", "f16", "f32", "") if d in p.text)
        device = dataclasses.replace(p.device, arch=arch)
        for source in cuda_emulator.plan(p.text, p.inputs, device).sources:
            schedule = source["entry"].rsplit("_", 1)[0]
            found[f"{schedule}_{dtype}"] = (source["entry"], source["unit"])
    return found


@pytest.fixture(scope="module")
def modules() -> dict[int, nvrtc.Module]:
    """Return for each architecture all texts as one module."""
    joined = [
        "".join(f"namespace u{k} {{\n{u}}}\n" for k, (_, u) in enumerate(texts(arch).values()))
        for arch in nvrtc.ARCHES
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        return dict(
            zip(nvrtc.ARCHES, pool.map(nvrtc.compile_text, joined, nvrtc.ARCHES), strict=True)
        )


@pytest.mark.parametrize("arch", nvrtc.ARCHES)
def test_no_kernel_spills(arch, modules):
    found = texts(arch)
    assert len(found) >= 20
    for name, (entry, _) in found.items():
        kernel = modules[arch].kernels[entry]
        cap = 128 if "copied" in name else REGISTERS.get(name.split("_")[0], 128)
        assert (kernel.spills, kernel.registers <= cap) == (0, True), (name, kernel)


def test_neighbours_are_read_by_128_bits_at_once():
    """In PTX of the floor that --embed-ptx writes."""
    p = next(p for p in PROGRAMS if p.name == "points_f32_5x24")
    source = cuda_emulator.plan(p.text, p.inputs, p.device).sources[0]
    ptx = nvrtc.compile_text(source["unit"], 80, "ptx").cubin.decode()
    assert "ld.global.nc.v4" in ptx and "st.global.v4" in ptx


def test_what_does_not_compile_is_told_with_the_log():
    with pytest.raises(nvrtc.CompileError, match="identifier .nothing. is undefined"):
        nvrtc.compile_text('extern "C" __global__ void k(int* a) { *a = nothing; }', 80)


THIN = """tile_program 1
input x0 f32[K] row
input x1 f32[K, N] row
output y0 f32[N] row
stage j: N, k: K
%0 = load x0 (k)
%1 = load x1 (k, j)
%2 = dot %0 %1 over k
%3 = const f32 1e-08
%4 = add %2 %3
%5 = log %4
store y0 (j) %5
"""


def test_what_an_assembler_gives_too_few_registers_unasked():
    product = next(p for p in PROGRAMS if p.name == "product_f32_nt_300x33x136")
    thin = [np.zeros(513, "f"), np.zeros((513, 200), "f")]
    for text, inputs, arch in ((product.text, product.inputs, 90), (THIN, thin, 100)):
        device = dataclasses.replace(product.device, arch=arch)
        (source,) = cuda_emulator.plan(text, inputs, device).sources
        kernel = nvrtc.compile_text(source["unit"], arch).kernels[source["entry"]]
        assert kernel.spills == 0, (source["entry"], kernel)
