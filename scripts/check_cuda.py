"""Compile every CUDA kernel of models and of the schedules' tests with NVRTC, without a GPU.

    python scripts/check_cuda.py [MODEL ...] [--arch 75 80 ...] [--jobs N] [--policy all] [--tf32]

MODEL is a path; without one, only the schedules' tests are compiled. Models are planned for CUDA,
their programs bound (dims that no model says: the first of a few sizes that fits), rendered, and
each distinct text is compiled for every architecture. Prints one table: programs tested and
launches by schedule; kernels by architecture, how many spill, the most registers, seconds. Exits
with 1 if a program has no plan, a text does not compile, or a kernel spills.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import cuda_emulator
import nvrtc
from cuda_programs import PROGRAMS

from onnx_fusion.api import plan_programs
from onnx_fusion.errors import OnnxFusionError, ProgramError
from onnx_fusion.program import parse_program
from onnx_fusion.program.expr import evaluate

SIZES = (1, 2, 8, 16, 64, 33, 128, 3, 4, 5, 6, 7, 9, 10, 12, 14, 20, 24, 32, 100, 224, 256)
FLOORS = (75, 80, 90, 100)
"""From which architectures on plans differ."""


def floor_of(arch: int) -> int:
    return max(floor for floor in FLOORS if floor <= arch)


def sample(text: str, size: int) -> list[np.ndarray]:
    """Return inputs of a program, every dim that is free being `size`; contents are not set."""
    env: dict[str, int] = {}
    arrays = []
    for t in parse_program(text).inputs:
        shape = []
        for entry in t.shape:
            try:
                shape.append(evaluate(entry, env))
            except ProgramError:
                env[str(entry)] = size
                shape.append(size)
        array = np.empty(t.physical(tuple(shape)), t.dtype.numpy)
        if t.binds:
            array[...] = size
            env.update(dict.fromkeys(t.binds, size))
        arrays.append(array)
    return arrays


def plan_sample(text: str, arch: int = 80, tf32: bool = False) -> cuda_emulator.Plan:
    """Return the plan of a program for the first size that fits, or raise CudaError."""
    reason, device = None, cuda_emulator.Device(arch=arch, tf32=tf32)
    for size in SIZES:
        try:
            return cuda_emulator.plan(text, sample(text, size), device)
        except (cuda_emulator.CudaError, ProgramError) as error:
            reason = reason or error
    raise cuda_emulator.CudaError(str(reason))


def plans_of(
    path: Path, policy: str, floors: Sequence[int], tf32: bool = False
) -> Iterator[tuple[str, list[cuda_emulator.Plan] | str]]:
    """Yield the regions of a model and their plans for each floor, or why there is none."""
    planned = plan_programs(path, policy=policy, device="cuda")
    for lowered in planned.lowered:
        try:
            plans = [plan_sample(lowered.program, floor, tf32) for floor in floors]
            yield lowered.region.name, plans
        except cuda_emulator.CudaError as error:
            yield lowered.region.name, str(error)


def main() -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--arch", nargs="+", type=int, default=list(nvrtc.ARCHES))
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--policy", default="all")
    parser.add_argument("--tf32", action="store_true", help="float32 products by tf32")
    args = parser.parse_args()
    floors = sorted({floor_of(arch) for arch in args.arch})
    texts: dict[int, dict[str, str]] = {floor: {} for floor in floors}
    launches: collections.Counter[str] = collections.Counter()
    tested: collections.Counter[str] = collections.Counter()
    failures = 0
    for p in PROGRAMS:
        for floor in floors:
            device = dataclasses.replace(p.device, arch=floor)
            plan = cuda_emulator.plan(p.text, p.inputs, device)
            texts[floor] |= {s["entry"]: s["unit"] for s in plan.sources}
        tested.update(set(plan.schedules()))
    print(f"schedules' tests: {len(PROGRAMS)} programs, {len(texts[floors[-1]])} distinct kernels")
    regions = 0
    for path in args.models:
        start, count, before = time.perf_counter(), 0, len(texts[floors[-1]])
        try:
            for name, plans in plans_of(path, args.policy, floors, args.tf32):
                count += 1
                if isinstance(plans, str):
                    failures += 1
                    print(f"{path.name}: {name}: {plans}", file=sys.stderr)
                    continue
                launches.update(plans[-1].schedules())
                for floor, plan in zip(floors, plans, strict=True):
                    texts[floor] |= {s["entry"]: s["unit"] for s in plan.sources}
        except OnnxFusionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            continue
        regions += count
        print(f"{path.name}: {count} regions, {len(texts[floors[-1]]) - before} new kernels, "
              f"{time.perf_counter() - start:.1f} s", flush=True)  # fmt: skip
    if args.models:
        print(f"{regions} regions, {sum(launches.values())} launches")
    print("\nschedule         programs tested   launches of models")
    for schedule in sorted(set(tested) | set(launches)):
        print(f"{schedule:16} {tested[schedule]:15} {launches[schedule]:20}")
    print(f"\n{'arch':>6} {'kernels':>8} {'failed':>7} {'spilling':>9} {'registers':>10} "
          f"{'seconds each':>13}")  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for arch in args.arch:
            made, failed, spilling, most = 0, 0, 0, 0
            seconds = 0.0
            units = texts[floor_of(arch)]
            for entry, result in zip(
                units, pool.map(lambda u, a=arch: attempt(u, a), units.values()), strict=True
            ):
                if isinstance(result, str):
                    failed += 1
                    print(f"{entry}: {result}", file=sys.stderr)
                    continue
                made += 1
                seconds += result.seconds
                kernel = result.kernels[entry]
                most = max(most, kernel.registers)
                if kernel.spills:
                    spilling += 1
                    print(f"{entry}: {kernel} on sm_{arch}", file=sys.stderr)
            failures += failed + spilling
            print(f"{arch:6} {made:8} {failed:7} {spilling:9} {most:10} "
                  f"{seconds / max(made, 1):13.3f}", flush=True)  # fmt: skip
    return int(failures > 0)


def attempt(unit: str, arch: int) -> nvrtc.Module | str:
    try:
        return nvrtc.compile_text(unit, arch)
    except nvrtc.CompileError as error:
        return str(error)


if __name__ == "__main__":
    raise SystemExit(main())
