"""Time the native kernels against ONNX Runtime's operators and the machine, interleaved, medians.

python scripts/bench_kernels.py [PATTERN ...] [--threads N] [--rounds N] [--plain]

Each line is one kernel: MatMul or Conv with bias and ReLU (--plain: without) and constant weights,
a chain of element-wise operators, or a norm of rows. `of peak` is its speed over that of a loop of
multiply-adds (Winograd does fewer than are counted, so it may be above 100 %), `of copy` the bytes
it must move per second over those of a copy as large on one thread, `of a loop` its speed over that
of a loop that the C compiler made for the same instruction set, where there is one. Patterns
select names.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import ctypes
import fnmatch
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "scripts")]

import native_lib  # noqa: E402
from kernel_cases import Case, cases  # noqa: E402

PEAK_ROUNDS = 200_000
MOST_REPEATS = 2000


def measure(case: Case, threads: int, rounds: int) -> tuple[float, float]:
    """Return the median seconds of the own kernel and of ONNX Runtime, values checked."""
    inputs = [native_lib.aligned(a) for a in case.inputs]
    kernel = native_lib.Kernel(case.text, inputs, case.constant)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    session = ort.InferenceSession(
        case.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("x", native_lib.aligned(case.feed))
    binding.bind_output("y")
    (expected,) = session.run(None, {"x": case.feed})
    (actual,) = kernel.run(kernel.kept, threads, align=True)
    if actual.ndim == 4 and actual.shape != expected.shape:
        actual = actual.transpose(0, 3, 1, 2)
    error = float(np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-30))
    if error > 1e-5:
        raise SystemExit(f"{case.name}: relative error {error:.1e}")
    # The first run into new memory waits for its pages.
    repeats = max(3, min(MOST_REPEATS, int(2e8 / case.flops)))
    own, other = [], []
    for _ in range(rounds):
        kernel.run(kernel.kept, threads, repeats, align=True)
        own.append(kernel.seconds)
        best = float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            best = min(best, time.perf_counter() - start)
        other.append(best)
    return statistics.median(own), statistics.median(other)


def peak(threads: int) -> float:
    """Return the floating-point operations per second of multiply-adds in registers."""
    loop = ctypes.CDLL(native_lib.get_library_path()).onnx_fusion_multiply_add
    loop.restype, loop.argtypes = ctypes.c_double, [ctypes.c_int64]

    def run(_: int) -> float:
        best = 0.0
        for _ in range(20):
            start = time.perf_counter()
            done = loop(PEAK_ROUNDS)
            best = max(best, done / (time.perf_counter() - start))
        return best

    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(run, range(threads)))


def copy_rate(moved: float) -> float:
    """Return the bytes per second, read and written, of a copy that moves so many on one thread."""
    source = native_lib.aligned(np.ones(max(1, int(moved) // 8), np.float32))
    target, best = native_lib.aligned(source), float("inf")
    for _ in range(max(5, int(2e8 / moved))):
        start = time.perf_counter()
        np.copyto(target, source)
        best = min(best, time.perf_counter() - start)
    return 2 * source.nbytes / best


FLAGS = {
    "base": ["-march=x86-64-v2"],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}


def loop_seconds(case: Case) -> float | None:
    """Return the seconds of a compiled loop over the case's elements, None without one."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if not case.loop or compiler is None:
        return None
    text = (
        "void run(const float *restrict x, float *restrict y, long n) {\n"
        f"  for (long i = 0; i < n; ++i) {{ float v = x[i]; {case.loop} y[i] = v; }}\n}}\n"
        "static void (*volatile again)(const float *restrict, float *restrict, long) = run;\n"
        "void repeat(const float *x, float *y, long n, long times) {\n"
        "  for (long k = 0; k < times; ++k) again(x, y, n);\n}\n"
    )
    flags = ["-O3", "-fno-math-errno", "-fno-trapping-math", *FLAGS.get(native_lib.isa(), [])]
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder) / "loop.c", Path(folder) / "loop.so"
        source.write_text(text)
        command = [compiler, *flags, "-shared", "-fPIC", str(source), "-o", str(made)]
        subprocess.run(command, check=True)
        repeat = ctypes.CDLL(str(made)).repeat
    x = native_lib.aligned(case.inputs[0])
    y, best = native_lib.aligned(x), float("inf")
    times = max(1, int(1e6 / case.flops))
    sizes = ctypes.c_long(x.size), ctypes.c_long(times)
    for _ in range(50):
        start = time.perf_counter()
        repeat(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), *sizes)
        best = min(best, (time.perf_counter() - start) / times)
    return best


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="such as '*3x3*last'")
    parser.add_argument("--threads", type=int, default=1, metavar="N")
    parser.add_argument("--rounds", type=int, default=9, metavar="N")
    parser.add_argument("--plain", action="store_true", help="no bias and ReLU")
    args = parser.parse_args()
    bound = peak(args.threads)
    print(f"{native_lib.isa()}, {args.threads} thread(s), peak {bound / 1e9:.1f} GFLOP/s")
    ratios = []
    for case in cases(args.plain):
        if args.patterns and not any(fnmatch.fnmatch(case.name, p) for p in args.patterns):
            continue
        own, other = measure(case, args.threads, args.rounds)
        ratios.append(other / own)
        loop = loop_seconds(case) if args.threads == 1 else None
        beside = f"  {loop / own:.0%} of a loop" if loop else ""
        rate, copied = case.flops / own, case.moved / own
        print(
            f"{case.name:34s} {rate / 1e9:7.1f} GFLOP/s {rate / bound:5.0%} of peak"
            f" {copied / 1e9:6.1f} GB/s {copied / copy_rate(case.moved):5.0%} of copy"
            f" {own * 1e6:10.1f} us {other * 1e6:10.1f} us of ONNX Runtime"
            f"  x{other / own:.2f}{beside}",
            flush=True,
        )
    if ratios:
        print(f"geometric mean x{statistics.geometric_mean(ratios):.2f}")


if __name__ == "__main__":
    main()
