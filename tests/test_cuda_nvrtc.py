"""NVRTC compiles a text of every CUDA schedule and type for every architecture, without a spill."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import sys
from pathlib import Path

import cuda_emulator
import pytest
from cuda_programs import PROGRAMS

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import nvrtc

if nvrtc.find_library() is None:
    pytest.skip("not run: nvidia-cuda-nvrtc is not installed", allow_module_level=True)

REGISTERS = {"attention": 168, "product": 255}
"""Of a thread at most, by schedule; 128 for all others."""


def texts(arch: int) -> dict[str, tuple[str, str]]:
    """Return the last program's entry and text for each schedule and type."""
    found = {}
    for p in PROGRAMS:
        dtype = next(d for d in ("bf16", "f16", "f32", "") if d in p.text)
        device = dataclasses.replace(p.device, arch=arch)
        source = cuda_emulator.plan(p.text, p.inputs, device).sources[0]
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
        cap = REGISTERS.get(name.split("_")[0], 128)
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
