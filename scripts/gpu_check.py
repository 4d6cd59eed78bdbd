"""All that needs a GPU, in one run: correctness, rates, models, session start. The table comes
last.

python scripts/gpu_check.py [--seconds N] [--only STAGE ...] [--json FILE] [--pretend]

Stages that do not fit the time left are reported as such. `--pretend` tries the script without a
GPU, with the tests' stand-ins for the driver and the compiler, on small sizes.
`scripts/gpu_check.sh` builds, runs the tests and this, and compute-sanitizer where it is there.

Exit status: 1 if a row missed its target ("NO"), else 3 if one was not measured ("?"), else 0.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts"), str(ROOT / "tests")]

TARGETS = {"pointwise": 0.90, "rows": 0.85, "maps": 0.80}
KERNELS_OF_A_SESSION = 60


class Check:
    """The rows of the table, and the time that is left."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        from gpu_device import Device

        self.small = args.pretend
        self.patterns = args.programs
        self.device = Device("cpu" if args.pretend else "cuda")
        self.folder = folder
        self.subjects: dict = {}  # models that are made, by name
        self.end = time.monotonic() + args.seconds
        self.rows: list[tuple[str, ...]] = []
        if args.notes:
            lines = Path(args.notes).read_text().splitlines()
            self.rows = [tuple(line.split("|")) for line in lines]

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def add(self, what: str, measured: str, target: str = "", good: bool | None = None) -> None:
        """Add a row, and print it now too; one with a target needs a verdict."""
        verdict = {None: "?" if target else "", True: "yes", False: "NO"}[good]
        self.rows.append((what, measured, target, verdict))
        print("  ".join(self.rows[-1]), flush=True)

    def fits(self, what: str, seconds: float, target: str) -> bool:
        """Return whether so many seconds are left; if not, that is this row's result."""
        if self.left() >= seconds:
            return True
        self.add(what, "no time left", target)
        return False

    def status(self) -> int:
        """Return the exit status."""
        verdicts = [row[3] for row in self.rows]
        missed = any(v.startswith("NO") for v in verdicts)
        return 1 if missed else 3 if "?" in verdicts or not verdicts else 0

    @contextlib.contextmanager
    def in_time(self) -> Iterator[None]:
        """Raise TimeoutError inside, in what Python runs, when no time is left."""

        def stop(*_: object) -> None:
            raise TimeoutError("no time left")

        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(self.left(), 0.1))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def machine(check: Check) -> None:
    """Say what this is measured on."""
    import onnxruntime
    import torch

    from onnx_fusion.runtime.library import find_nvrtc

    name = torch.cuda.get_device_name() if check.device.real else "stand-ins"
    check.add(
        "machine",
        f"{name}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}, "
        f"NVRTC {find_nvrtc() or os.environ.get('ONNX_FUSION_NVRTC') or 'where the system has it'}",
    )
    providers = onnxruntime.get_available_providers()
    if check.device.real and "CUDAExecutionProvider" not in providers:
        check.add("CUDA provider", f"not there: {', '.join(providers)}", "there", False)


def programs(check: Check) -> None:
    """Run every program of the tests, against the interpreter."""
    from gpu_programs import check_programs

    right, host, wrong = check_programs(check.device, check.patterns, check.left)
    for line in wrong:
        print(f"wrong: {line}")
    found = f"{right} right, {len(wrong)} wrong, {host} read extents"
    check.add("programs against the interpreter", found, "0 wrong", not wrong and right > 0)


def calls(check: Check) -> None:
    """Run what libraries make of the tests' products and convolutions, against the interpreter."""
    from gpu_programs import check_calls

    every = 9 if check.small else 1
    right, none, wrong = check_calls(check.device, check.patterns, every, check.left)
    for line in wrong:
        print(f"wrong: {line}")
    found = f"{right} right, {len(wrong)} wrong, {none} not offered"
    check.add("libraries' calls against the interpreter", found, "0 wrong", not wrong and right > 0)


def rates(check: Check) -> None:
    """Time kernels beside a copy and torch."""
    from gpu_kernels import NEAR, copy_rate, kernels, time_kernel

    copy = copy_rate(check.device, check.small)
    check.add("device copy", f"{copy / 1e12:.2f} TB/s")
    for one in kernels(check.small):
        target = 1.0 if one.flops else TARGETS[one.kind]
        if not check.fits(one.name, 20, f">= {target:.2f}"):
            continue
        found = time_kernel(check.device, one)
        beside = found["torch"] / found["own"]
        if one.flops:
            share, text = beside, f"{one.flops / found['own'] / 1e12:.1f} TFLOP/s"
        else:
            share = one.bytes() / found["own"] / copy
            text = f"{share:.0%} of copy"
        check.add(
            one.name,
            f"{found['own'] * 1e6:.1f} us, {text}, {beside:.2f} of torch's speed, "
            f"error {found['error']:.0e}",
            f">= {target:.2f}",
            found["error"] < NEAR[one.dtype] and share >= target,
        )


def anchors(check: Check) -> None:
    """Time products and convolutions as they were chosen beside the bare library's, and regions
    with a product beside ONNX Runtime's nodes."""
    from gpu_convolutions import convolutions
    from gpu_kernels import NEAR, anchors, time_anchor

    for one in (*anchors(check.small), *convolutions(check.small)):
        if not check.fits(one.name, 20, ">= 0.97"):
            continue
        found = time_anchor(check.device, one)
        share = found["bare"] / found["own"]
        check.add(
            one.name,
            f"{share:.2f} of the bare library's speed, {one.flops / found['own'] / 1e12:.0f} "
            f"TFLOP/s, {found['kernel'] / found['own']:.2f} x our kernel, "
            f"error {found['error']:.0e}",
            ">= 0.97",
            share >= 0.97 and found["error"] < NEAR[one.dtype],
        )
    sizes = ((4096, 4096, 4096), (2048, 1024, 4096), (128, 768, 3072))
    for m, k, n in ((72, 128, 128),) if check.small else sizes:
        _region(check, m, k, n)


def _region(check: Check, m: int, k: int, n: int) -> None:
    from gpu_models import compare, make_region

    import onnx_fusion

    name = f"MatMul + Add + Gelu {m}x{k}x{n}"
    if not check.fits(name, 30, ">= 1.10"):
        return
    path, feed, want = make_region(check.folder, m, k, n)
    fused = path.with_suffix(".fused.onnx")
    onnx_fusion.optimize_file(path, fused, policy="all", device="cuda")
    found = compare(check.device, path, fused, feed, want, 1.0)
    if "own" not in found:
        check.add(name, "no session: " + (found["failed"] or ["?"])[0][:200], "runs", False)
        return
    ratio = min(found["ort"]) / min(found["own"])
    check.add(
        name,
        f"{ratio:.2f} x ONNX Runtime ({min(found['own']):.3f} ms against "
        f"{min(found['ort']):.3f}), error {found['error']:.0e} (theirs {found['ort_error']:.0e})",
        ">= 1.10",
        ratio >= 1.10 and found["error"] <= max(2 * found["ort_error"], 1e-3),
    )


def models(check: Check) -> None:
    """Export, optimize, compare and time whole models."""
    from gpu_models import SUBJECTS

    targets = {"lenet5": 1.0} if check.small else {n: s[1] for n, s in SUBJECTS.items()}
    for name, target in targets.items():
        if not check.fits(name, 45, f">= {target:.2f}"):
            continue
        try:
            _model(check, name)
        except Exception as error:
            traceback.print_exc()
            check.add(name, f"{type(error).__name__}: {str(error)[:200]}", "runs", False)


def _model(check: Check, name: str) -> None:
    import copy

    import numpy as np
    import onnxruntime
    import torch
    from gpu_models import compare, make_subject

    import onnx_fusion

    start = time.monotonic()
    target, want = 1.0, None
    if check.small:
        path = ROOT / "models" / f"{name}.onnx"
        inputs = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
        feed = {
            i.name: np.random.default_rng(0).standard_normal(i.shape).astype("f") for i in inputs
        }
    else:
        subject = check.subjects[name] = make_subject(name, check.folder, check.device)
        path, target = subject.path, subject.target
        feed = {f"in{k}": x.cpu().numpy() for k, x in enumerate(subject.inputs)}
        with torch.no_grad():
            full = copy.deepcopy(subject.net).float()(
                *(x.float() if x.is_floating_point() else x for x in subject.inputs)
            )
        kept = (
            [full]
            if isinstance(full, torch.Tensor)
            else [x for x in full if isinstance(x, torch.Tensor)]
        )
        want = [x.double().cpu().numpy() for x in kept]
    fused = check.folder / f"{name}.fused.onnx"
    summary = onnx_fusion.optimize_file(path, fused, policy="all", device="cuda")
    made = time.monotonic() - start
    found = compare(check.device, path, fused, feed, want, max(1.0, min(6.0, check.left() / 10)))
    for line in found["failed"]:
        print(f"{name}: {line}")
    if "own" not in found:
        check.add(name, "no session: " + (found["failed"] or ["?"])[0][:200], "runs", False)
        return
    ratio = min(found["ort"]) / min(found["own"])
    captured = len(found["own"]) == (2 if check.device.real else 1)
    good = found["error"] <= max(2 * found["ort_error"], 1e-3)
    own = "/".join(f"{t:.3f}" for t in found["own"])
    check.add(
        name,
        f"{ratio:.2f} x ONNX Runtime ({own} ms{' graphs' if captured else ', NO GRAPH'} against "
        f"{'/'.join(f'{t:.3f}' for t in found['ort'])}), {summary.regions} regions, "
        f"{summary.nodes_after} nodes, error {found['error']:.0e} (theirs "
        f"{found['ort_error']:.0e}), session {found['created']:.2f} s, made in {made:.0f} s",
        f">= {target:.2f}", good and captured and ratio >= target,
    )  # fmt: skip


def start(check: Check) -> None:
    """Time sessions of many distinct kernels, compiled and from the cache."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper

    from onnx_fusion.runtime.session import CUDA_PROVIDER, session

    count = 4 if check.small else KERNELS_OF_A_SESSION
    ops = ["Exp", "Sin", "Tanh", "Abs", "Neg", "Cos", "Sqrt", "Floor"]
    nodes, names = [], ["x"]
    text = (
        "tile_program 1\ninput x0 f32[64, 256] row\noutput y0 f32[64, 256] row\n"
        "stage i: 64, j: 256\n%0 = load x0 (i, j)\n{}store y0 (i, j) %{}\n"
    )
    for k in range(count):
        body, digits = "", f"{k:o}"
        for n, digit in enumerate(digits + "12"):
            body += f"%{n + 1} = {ops[int(digit)].lower()} %{n}\n"
        names.append(f"v{k}")
        nodes.append(
            helper.make_node(
                "FusedRegion_0",
                names[-2:-1],
                names[-1:],
                name=names[-1],
                domain="onnx_fusion",
                program=text.format(body, len(digits) + 2),
            )
        )
    infos = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [64, 256]) for n in ("x", names[-1])
    ]
    body = [helper.make_node("Identity", ["a"], ["b"])]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("onnx_fusion", 1)]
    function = helper.make_function("onnx_fusion", "FusedRegion_0", ["a"], ["b"], body, opsets[:1])
    model = helper.make_model(helper.make_graph(nodes, "start", infos[:1], infos[1:]), ir_version=8,
                              opset_imports=opsets, functions=[function])  # fmt: skip
    provider = "CUDAExecutionProvider" if check.device.real else "CPUExecutionProvider"
    os.environ["ONNX_FUSION_CACHE"] = str(check.folder / "cache")
    for state, target in (("cold", 1.0), ("cached", 0.1)):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry(CUDA_PROVIDER, provider)
        begin = time.perf_counter()
        made = session(model, options=options, providers=[provider])
        took = time.perf_counter() - begin
        made.run(None, {"x": np.ones((64, 256), np.float32)})
        check.add(
            f"session of {count} kernels, {state}",
            f"{took:.2f} s",
            f"<= {target} s",
            took <= target,
        )
        del made


def compiled(check: Check, what: str) -> None:
    """Time rows or models beside torch.compile's."""
    import gpu_compiled

    getattr(gpu_compiled, what)(check)


STAGES: dict[str, Callable[[Check], None]] = {
    "machine": machine, "programs": programs, "calls": calls, "start": start, "rates": rates,
    "anchors": anchors, "models": models,
    "compiled_rates": lambda check: compiled(check, "rates"),
    "compiled_models": lambda check: compiled(check, "models"),
}  # fmt: skip


def main() -> int:
    """Run the stages and print the table; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=540)
    parser.add_argument("--only", nargs="*", choices=STAGES, metavar="STAGE",
                        help="of " + ", ".join(STAGES) + "; none: what --notes has")  # fmt: skip
    parser.add_argument("--programs", nargs="+", default=[], metavar="TEXT",
                        help="of programs and calls only those named so")  # fmt: skip
    parser.add_argument(
        "--notes", help="rows that come first, one in a line: what|measured|target|ok"
    )
    parser.add_argument("--json")
    parser.add_argument("--pretend", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.pretend:
            from cuda_fake import Fake

            fake = Fake(Path(folder))
            os.environ.update(fake.env(), ONNX_FUSION_CUBLASLT=str(fake.blas),
                              ONNX_FUSION_CUDNN=str(fake.dnn))  # fmt: skip
            args.programs = args.programs or ["split_normed_f32", "softmax_1", "silu"]
        check = Check(args, Path(folder))
        for name in STAGES:
            if args.only is not None and name not in args.only:
                continue
            try:
                STAGES[name](check)
            except Exception as error:
                traceback.print_exc()
                check.add(name, f"{type(error).__name__}: {str(error)[:200]}", "runs", False)
    if args.json:
        Path(args.json).write_text(json.dumps(check.rows, indent=1))
    widths = [max(len(row[k]) for row in check.rows) for k in (0, 2)]
    print("\n" + f"{'what':{widths[0]}}  {'target':{widths[1]}}  ok   measured")
    for what, measured, target, verdict in check.rows:
        print(f"{what:{widths[0]}}  {target:{widths[1]}}  {verdict:3}  {measured}")
    return check.status()


if __name__ == "__main__":
    sys.exit(main())
