"""Kernels and models beside what torch.compile makes of the same: stages of gpu_check.py."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

from gpu_kernels import kernels, time_kernel
from gpu_models import CompiledRunner, Runner, duel, make_subject

import onnx_fusion

if TYPE_CHECKING:
    from gpu_check import Check

COMPILED = 0.95
"""Of torch.compile's speed: rows by its default, models by max-autotune."""
SECONDS = 100
"""What a model takes at least: exported, compiled, tuned."""
SUBJECTS = ("unet_block", "vit_b16", "convnext_tiny", "swin_t")
"""Models that torch.compile is a yardstick for."""


def rates(check: Check) -> None:
    """Time row kernels beside torch.compile's."""
    backend = "inductor" if check.device.real else "eager"
    for one in kernels(check.small):
        if one.kind != "rows":
            continue
        name, target = f"{one.name} by torch.compile", f">= {COMPILED:.2f}"
        if not check.fits(name, 30, target):
            continue
        try:
            with check.in_time():
                found = time_kernel(check.device, one, backend)
        except Exception as error:  # a compiler that is not there is no failure of ours
            check.add(name, f"{type(error).__name__}: {str(error)[:200]}", target)
            continue
        share = found["torch"] / found["own"]
        check.add(name, f"{share:.2f} of its speed ({found['own'] * 1e6:.1f} us against "
                  f"{found['torch'] * 1e6:.1f})", target, share >= COMPILED)  # fmt: skip


def models(check: Check) -> None:
    """Time whole models beside torch.compile's, max-autotune: CUDA graphs on both sides."""
    for name in ["tiny"] if check.small else SUBJECTS:
        row, target = f"{name} by torch.compile", f">= {COMPILED:.2f}"
        if not check.fits(row, SECONDS, target):
            continue
        try:
            with check.in_time():
                own, other = _time(check, name)
        except Exception as error:  # a compiler that is not there is no failure of ours
            traceback.print_exc()
            check.add(row, f"{type(error).__name__}: {str(error)[:200]}", target)
            continue
        share = other / own
        check.add(row, f"{share:.2f} of max-autotune's speed ({own:.3f} ms against {other:.3f})",
                  target, share >= COMPILED)  # fmt: skip


def _time(check: Check, name: str) -> tuple[float, float]:
    subject = check.subjects.get(name) or make_subject(name, check.folder, check.device)
    fused = check.folder / f"{name}.fused.onnx"
    if not fused.exists():
        onnx_fusion.optimize_file(subject.path, fused, policy="all", device="cuda")
    feed = {f"in{k}": x.cpu().numpy() for k, x in enumerate(subject.inputs)}
    graph = {"enable_cuda_graph": "1"} if check.device.real else {}
    own = Runner(check.device, fused, feed, graph, True)
    other = CompiledRunner(check.device, subject)
    ours, theirs = duel([own], [other], max(1.0, min(6.0, check.left() / 10)))
    return ours[0], theirs[0]
