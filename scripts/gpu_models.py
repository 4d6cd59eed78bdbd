"""Whole models on a device: exported here, optimized for CUDA, against ONNX Runtime's CUDA
provider."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from gpu_device import Device

from onnx_fusion.runtime.session import CUDA_PROVIDER, session

ROOT = Path(__file__).resolve().parents[1]
BASELINES = [
    {"cudnn_conv_algo_search": "EXHAUSTIVE", "prefer_nhwc": nhwc, "enable_cuda_graph": graph}
    for nhwc in "01"
    for graph in "01"
]


@dataclasses.dataclass
class Subject:
    """A torch model in float16 with its inputs, and its ONNX file."""

    name: str
    net: torch.nn.Module
    inputs: tuple[torch.Tensor, ...]
    path: Path
    target: float


class _Block(torch.nn.Module):
    """A UNet's residual block with attention: group norms, SiLU, 3x3 convolutions, softmax."""

    def __init__(self, channels: int = 320) -> None:
        super().__init__()
        self.norms = torch.nn.ModuleList(torch.nn.GroupNorm(32, channels) for _ in range(3))
        self.convs = torch.nn.ModuleList(
            torch.nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2)
        )
        self.qkv, self.out = (
            torch.nn.Conv2d(channels, 3 * channels, 1),
            torch.nn.Conv2d(channels, channels, 1),
        )

    def forward(self, x):
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=False):
            y = conv(torch.nn.functional.silu(norm(y)))
        x = x + y
        n, c, h, w = x.shape
        q, k, v = self.qkv(self.norms[2](x)).reshape(n, 3, 8, c // 8, h * w).unbind(1)
        weights = torch.softmax(q.transpose(-1, -2) @ k * (c // 8) ** -0.5, -1)
        return x + self.out((v @ weights.transpose(-1, -2)).reshape(n, c, h, w))


def _vision(name: str, batch: int, size: int = 224) -> Callable:
    def make():
        import torchvision

        return getattr(torchvision.models, name)(weights=None), (torch.randn(batch, 3, size, size),)

    return make


def _bert():
    from transformers import BertConfig, BertModel

    net = BertModel(BertConfig(attn_implementation="eager"))
    net.config.return_dict = False
    return net, (torch.randint(0, 30000, (1, 128)), torch.ones(1, 128, dtype=torch.int64))


SUBJECTS: dict[str, tuple[Callable, float]] = {
    "resnet50_b1": (_vision("resnet50", 1), 1.10),
    "bert_base": (_bert, 1.3),
    "unet_block": (lambda: (_Block(), (torch.randn(2, 320, 32, 32),)), 1.3),
    "vit_b16": (_vision("vit_b_16", 1), 1.3),
    "convnext_tiny": (_vision("convnext_tiny", 1), 1.3),
    "swin_t": (_vision("swin_t", 1), 1.3),
    "resnet50_b32": (_vision("resnet50", 32), 1.05),
}


def _tiny():
    return torch.nn.Sequential(torch.nn.Linear(24, 16), torch.nn.SiLU()), (torch.randn(8, 24),)


def make_subject(name: str, folder: Path, device: Device) -> Subject:
    """Return a model of SUBJECTS, exported in float16."""
    make, target = (_tiny, 0.0) if name == "tiny" else SUBJECTS[name]
    torch.manual_seed(0)
    net, inputs = make()
    net = net.eval().half().to(device.name)
    inputs = tuple((x.half() if x.is_floating_point() else x).to(device.name) for x in inputs)
    path = folder / f"{name}.onnx"
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, inputs, str(path), dynamo=False, opset_version=17,
                          input_names=[f"in{k}" for k in range(len(inputs))])  # fmt: skip
    return Subject(name, net, inputs, path, target)


def make_region(folder: Path, m: int, k: int, n: int) -> tuple[Path, dict, list[np.ndarray]]:
    """Return a model of MatMul, Add and Gelu in float16, its input, and what it computes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k)).astype(np.float16)
    w = (rng.standard_normal((k, n)) * k**-0.5).astype(np.float16)
    b = rng.standard_normal(n).astype(np.float16)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["a"]),
        onnx.helper.make_node("Add", ["a", "b"], ["c"]),
        onnx.helper.make_node("Gelu", ["c"], ["y"]),
    ]
    infos = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT16, dims)
        for name, dims in (("x", (m, k)), ("y", (m, n)))
    ]
    weights = [onnx.numpy_helper.from_array(a, name) for a, name in ((w, "w"), (b, "b"))]
    graph = onnx.helper.make_graph(nodes, "region", infos[:1], infos[1:], weights)
    path = folder / f"region_{m}x{k}x{n}.onnx"
    opsets = [onnx.helper.make_opsetid("", 20)]
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=opsets), path)
    wide = [torch.from_numpy(a).float() for a in (x, w, b)]
    want = torch.nn.functional.gelu(wide[0] @ wide[1] + wide[2])
    return path, {"x": x}, [want.double().numpy()]


class Runner:
    """A session with its inputs and outputs bound on the device."""

    def __init__(self, device: Device, path: Path, feed: dict[str, np.ndarray], options: dict,
                 own: bool) -> None:  # fmt: skip
        provider = "CUDAExecutionProvider" if device.real else "CPUExecutionProvider"
        chosen = [(provider, options if device.real else {})]
        settings = ort.SessionOptions()
        settings.log_severity_level = 3
        if own:
            settings.add_session_config_entry(CUDA_PROVIDER, provider)
        start = time.perf_counter()
        self.session = session(str(path), library=own, options=settings, providers=chosen)
        self.created = time.perf_counter() - start
        self.binding = self.session.io_binding()
        self.kept = [ort.OrtValue.ortvalue_from_numpy(a, device.name, 0) for a in feed.values()]
        for name, value in zip(feed, self.kept, strict=True):
            self.binding.bind_ortvalue_input(name, value)
        plain = self.session.get_outputs()
        for value in plain:
            self.binding.bind_output(value.name, device.name, 0)
        self.run()
        if options.get("enable_cuda_graph") == "1":  # a graph wants outputs at the same addresses
            made = self.binding.get_outputs()
            self.kept += made
            for value, kept in zip(plain, made, strict=True):
                self.binding.bind_ortvalue_output(value.name, kept)
        for _ in range(3):
            self.run()

    def run(self) -> None:
        """Run once, and wait for it."""
        self.session.run_with_iobinding(self.binding)

    def results(self) -> list[np.ndarray]:
        """Return what the last run computed."""
        return [v.numpy() for v in self.binding.get_outputs()]


class CompiledRunner:
    """A model as torch.compile makes it."""

    def __init__(self, device: Device, subject: Subject) -> None:
        self.device = device
        self.inputs = subject.inputs
        how = {"mode": "max-autotune"} if device.real else {"backend": "eager"}
        self.made = torch.compile(subject.net, **how)
        for _ in range(4):  # compiles, warms up, captures
            self.run()

    def run(self) -> None:
        """Run once, and wait for it."""
        with torch.no_grad():
            self.made(*self.inputs)
        self.device.wait()


def duel(own: Sequence, other: Sequence, seconds: float) -> tuple[list[float], list[float]]:
    """Return the median milliseconds of each runner, all measured in turn."""
    runners = [*own, *other]
    times: list[list[float]] = [[] for _ in runners]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 5:
        for runner, found in zip(runners, times, strict=True):
            start = time.perf_counter()
            for _ in range(5):
                runner.run()
            found.append((time.perf_counter() - start) / 5)
    medians = [1e3 * statistics.median(t) for t in times]
    return medians[: len(own)], medians[len(own) :]


def compare(device: Device, path: Path, fused: Path, feed: dict[str, np.ndarray],
            want: list[np.ndarray] | None, seconds: float) -> dict:  # fmt: skip
    """Return times and errors of a model and its fused copy, each in every setting that runs."""
    found: dict = {"failed": []}

    def make(file: Path, options: dict, own: bool) -> Runner | None:
        try:
            return Runner(device, file, feed, options, own)
        except Exception as error:
            found["failed"].append(f"{'own' if own else 'ort'} {options}: {str(error)[:300]}")
            return None

    settings = BASELINES if device.real else BASELINES[:1]
    others = [r for o in settings if (r := make(path, o, False))]
    owns = [r for o in ({"enable_cuda_graph": g} for g in ("01" if device.real else "0"))
            if (r := make(fused, o, True))]  # fmt: skip
    if not owns or not others:
        return found
    reference = want if want is not None else [r.astype(np.float64) for r in others[0].results()]

    def error(results: list[np.ndarray]) -> float:
        return max(
            float(np.linalg.norm(a.astype(np.float64) - b) / max(np.linalg.norm(b), 1e-30))
            for a, b in zip(results, reference, strict=True)
        )

    found["error"] = max(error(r.results()) for r in owns)
    found["ort_error"] = error(others[0].results())
    found["created"] = owns[0].created
    found["own"], found["ort"] = duel(owns, others, seconds)
    return found
