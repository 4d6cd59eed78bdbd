"""One engine with one model in a process of its own, for scripts/bench.py, which talks to it.

    python scripts/bench_engine.py ENGINE MODEL INPUTS.npz THREADS [CPU,...]

Once the model is loaded and was run, a line of JSON says how long that took, how much memory, and
where the results are. Then each line on stdin asks for a sample: it is answered by the mean seconds
of as many runs as last 10 ms, after one that is not measured. Only NumPy and the engine's own
package are imported, so that peers can live in an environment of their own.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

SAMPLE_SECONDS = 0.01
CREATIONS = 3
Inputs = dict[str, np.ndarray]
Run = Callable[[], object]


class Ort:
    """Plain ONNX Runtime, all optimizations on; inputs and outputs are bound."""

    package = "onnxruntime"

    def __init__(self, path: str, inputs: Inputs, threads: int) -> None:
        self.session = self.create(path, threads)
        wanted = {value.name for value in self.session.get_inputs()}
        self.inputs = {name: array for name, array in inputs.items() if name in wanted}

    def create(self, path: str, threads: int):
        """Return a session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def results(self) -> list[np.ndarray]:
        """Return the outputs of one run."""
        return self.session.run(None, self.inputs)

    def runner(self) -> Run:
        """Return what runs the model once."""
        import onnxruntime

        values = (*self.session.get_inputs(), *self.session.get_outputs())
        if not all(v.type.startswith("tensor(") and "string" not in v.type for v in values):
            return lambda: self.session.run(None, self.inputs)
        binding = self.session.io_binding()
        for name, array in self.inputs.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        for value in self.session.get_outputs():
            binding.bind_output(value.name)
        try:
            for _ in range(2):
                self.session.run_with_iobinding(binding)
        except RuntimeError:
            # It checks ranks, and the second time extents, that the model declares; `run` forgives.
            return lambda: self.session.run(None, self.inputs)
        return lambda: self.session.run_with_iobinding(binding)


class Ours(Ort):
    """ONNX Runtime with the native library registered."""

    def create(self, path: str, threads: int):
        """Return a session."""
        import onnxruntime

        from onnx_fusion.runtime.session import session

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        return session(path, threads=threads, options=options)


class OpenVino:
    """OpenVINO for low latency, in fp32, with the inputs' shapes fixed."""

    package = "openvino"

    def __init__(self, path: str, inputs: Inputs, threads: int) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        named = {name: port for port in model.inputs for name in port.get_names()}
        self.inputs = {name: array for name, array in inputs.items() if name in named}
        model.reshape({named[name]: list(array.shape) for name, array in self.inputs.items()})
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()
        for name, array in self.inputs.items():
            self.request.set_tensor(name, openvino.Tensor(array, shared_memory=False))

    def results(self) -> list[np.ndarray]:
        """Return the outputs of one run."""
        self.request.infer()
        return [np.array(tensor.data) for tensor in self.request.output_tensors]

    def runner(self) -> Run:
        """Return what runs the model once."""
        return self.request.infer


class Mnn:
    """MNN at high precision."""

    package = "MNN"

    def __init__(self, path: str, inputs: Inputs, threads: int) -> None:
        import MNN

        self.expr = MNN.expr
        config = {"backend": "CPU", "precision": "high", "numThread": threads}
        manager = MNN.nn.create_runtime_manager((config,))
        info = json.loads(Path(path).with_suffix(".json").read_text())
        self.module = MNN.nn.load_module_from_file(
            path, info["inputs"], info["outputs"], runtime_manager=manager, shape_mutable=False
        )
        kinds = {"f": (MNN.expr.float, np.float32), "i": (MNN.expr.int, np.int32)}
        self.inputs = []
        for name in info["inputs"]:
            array = inputs[name]
            kind, dtype = kinds["i" if array.dtype.kind in "biu" else "f"]
            placeholder = MNN.expr.placeholder(list(array.shape), MNN.expr.NCHW, kind)
            placeholder.write(np.ascontiguousarray(array.astype(dtype)))
            self.inputs.append(placeholder)

    def results(self) -> list[np.ndarray]:
        """Return the outputs of one run."""
        outputs = self.module.forward(self.inputs)
        return [np.array(self.expr.convert(o, self.expr.NCHW).read()) for o in outputs]

    def runner(self) -> Run:
        """Return what runs the model once; reading makes it wait for the results."""
        return lambda: [o.read() for o in self.module.forward(self.inputs)]


class Ncnn:
    """ncnn in fp32; the model is pnnx's."""

    package = "ncnn"

    def __init__(self, path: str, inputs: Inputs, threads: int) -> None:
        import ncnn

        self.net = ncnn.Net()
        options = self.net.opt
        options.num_threads = threads
        for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic"):
            setattr(options, name, False)
        options.use_bf16_storage = options.use_bf16_packed = False
        self.net.load_param(path)
        self.net.load_model(str(Path(path).with_suffix(".bin")))
        # A Mat made of an array neither owns nor keeps its memory.
        arrays = [np.ascontiguousarray(a[0].astype(np.float32)) for a in inputs.values()]
        self.inputs = [ncnn.Mat(array).clone() for array in arrays]
        self.names = self.net.input_names(), self.net.output_names()

    def extract(self) -> list:
        """Return the outputs of one run, as ncnn has them."""
        extractor = self.net.create_extractor()
        for name, array in zip(self.names[0], self.inputs, strict=True):
            extractor.input(name, array)
        return [extractor.extract(name)[1] for name in self.names[1]]

    def results(self) -> list[np.ndarray]:
        """Return the outputs of one run."""
        return [np.array(mat)[None] for mat in self.extract()]

    def runner(self) -> Run:
        """Return what runs the model once."""
        return self.extract


class Inductor:
    """torch.compile, with the weights frozen, of the PyTorch module that pnnx writes."""

    package = "torch"
    creations = 1  # of a minute or two each

    def __init__(self, path: str, inputs: Inputs, threads: int) -> None:
        import torch
        import torch._inductor.config

        torch._inductor.config.freezing = True
        torch.set_num_threads(threads)
        self.torch = torch
        self.inputs = [torch.from_numpy(np.ascontiguousarray(a)) for a in inputs.values()]
        spec = importlib.util.spec_from_file_location("made_by_pnnx", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        os.chdir(Path(path).parent)  # the weights' file is named without its folder
        self.compiled = torch.compile(module.Model().eval())
        self.run()

    def run(self):
        """Run the model once."""
        with self.torch.no_grad():
            return self.compiled(*self.inputs)

    def results(self) -> list[np.ndarray]:
        """Return the outputs of one run."""
        made = self.run()
        return [one.numpy() for one in (made if isinstance(made, (tuple, list)) else (made,))]

    def runner(self) -> Run:
        """Return what runs the model once."""
        return self.run


ENGINES = {
    "ours": Ours, "ort": Ort, "onnxslim": Ort, "openvino": OpenVino, "mnn": Mnn, "ncnn": Ncnn,
    "inductor": Inductor,
}  # fmt: skip


def memory(field: str) -> int:
    """Return a field of this process's status in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"^{field}:\s+(\d+)", status, re.M)[1])


def reset_peak() -> None:
    """Let the peak begin again at what is used now, where the system allows that."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def count_runs(run: Run) -> int:
    """Return how many runs make a sample."""
    run()
    start = time.perf_counter()
    run()
    took = time.perf_counter() - start
    if took < SAMPLE_SECONDS:
        count = max(1, round(SAMPLE_SECONDS / max(took, 1e-7) / 4))
        took = min(took, sample(run, count))
    return max(1, min(100_000, round(SAMPLE_SECONDS / took)))


def sample(run: Run, count: int) -> float:
    """Return the mean seconds of `count` runs, after one that is not measured."""
    run()
    start = time.perf_counter()
    for _ in range(count):
        run()
    return (time.perf_counter() - start) / count


def main() -> None:
    """Serve one model until stdin ends."""
    # Engines print to stdout as they like; what answers is written past them.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    name, path, arrays, threads = sys.argv[1:5]
    if len(sys.argv) > 5:
        os.sched_setaffinity(0, map(int, sys.argv[5].split(",")))
    engine = ENGINES[name]
    package = __import__(engine.package)
    with np.load(arrays) as file:
        inputs = {key: file[key] for key in file.files}
    reset_peak()
    before = memory("VmRSS")
    seconds, made = [], None
    for turn in range(getattr(engine, "creations", CREATIONS)):
        made = None
        gc.collect()
        start = time.perf_counter()
        made = engine(path, inputs, int(threads))
        seconds.append(time.perf_counter() - start)
        if turn == 0:
            results = made.results()
            peak = memory("VmHWM") - before
    np.savez(f"{arrays}.{name}.npz", *results)
    run = made.runner()
    count = count_runs(run)
    hello = {
        "version": getattr(package, "__version__", "") or getattr(package, "version", lambda: "")(),
        "create": statistics.median(seconds), "peak": peak, "results": f"{arrays}.{name}.npz",
    }  # fmt: skip
    print(json.dumps(hello), file=answers)
    for _ in sys.stdin:
        print(json.dumps(sample(run, count)), file=answers)


if __name__ == "__main__":
    main()
