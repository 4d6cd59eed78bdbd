"""What other tools make of a model, for scripts/bench.py: the files that their engines read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

PEERS = ("ort", "openvino", "mnn", "ncnn", "onnxslim", "inductor")
VARIABLE = "ONNX_FUSION_PEERS"
DEFAULT = "/opt/peers"
SECONDS = 600
_TYPES = {"float32": "f32", "int64": "i64", "int32": "i32", "float64": "f64", "float16": "f16"}


class Missing(Exception):
    """The peer is not there, or does not take the model; the message says which."""


def environment() -> Path:
    """Return the virtual environment with the peers: $ONNX_FUSION_PEERS, else /opt/peers."""
    return Path(os.environ.get(VARIABLE, DEFAULT))


def python_of(peer: str) -> str:
    """Return the interpreter that runs a peer's engine; ONNX Runtime's is this one."""
    if peer in ("ours", "ort"):
        return sys.executable
    python = environment() / "bin" / "python"
    if not python.exists():
        raise Missing(f"{python}: no such file; make the environment and name it in {VARIABLE}")
    return str(python)


def convert(peer: str, model: Path, inputs: Mapping[str, np.ndarray], folder: Path) -> str:
    """Return the file that the peer's engine reads. Raises Missing if there is none."""
    python_of(peer)
    if peer in ("ort", "openvino"):
        return str(model)
    if peer == "onnxslim":
        target = folder / "slim.onnx"
        call(["onnxslim", str(model), str(target)], folder, target)
        return str(target)
    # The tools know the model by the file's name and write beside it.
    link = folder / f"{peer}.onnx"
    link.symlink_to(model.resolve())
    if peer == "mnn":
        target = folder / "mnn.mnn"
        command = ["mnnconvert", "-f", "ONNX", "--modelFile", str(link), "--MNNModel", str(target),
                   "--bizCode", "bench"]  # fmt: skip
        call(command, folder, target)
        outputs = [v.name for v in onnx.load(model, load_external_data=False).graph.output]
        names = {"inputs": list(inputs), "outputs": outputs}
        target.with_suffix(".json").write_text(json.dumps(names))
        return str(target)
    for name, array in inputs.items():
        if peer == "ncnn" and (array.dtype.kind != "f" or array.ndim < 2 or array.shape[0] != 1):
            raise Missing(f"it wants floats with a batch of 1, and '{name}' is not")
    shapes = ",".join(
        f"[{','.join(map(str, a.shape))}]{_TYPES.get(a.dtype.name, 'f32')}" for a in inputs.values()
    )
    # pnnx writes the model for ncnn, and as a PyTorch module with its weights beside it.
    target = folder / ("ncnn.ncnn.param" if peer == "ncnn" else "inductor_pnnx.py")
    call(["pnnx", str(link), f"inputshape={shapes}", "fp16=0"], folder, target)
    return str(target)


def call(command: list[str], folder: Path, target: Path) -> None:
    """Run one of the peers' programs; raise Missing if it writes no file."""
    program = environment() / "bin" / command[0]
    if not program.exists():
        raise Missing(f"{program}: no such file")
    # MNN's converter runs `pip install` for what it misses: into its own environment, not this one.
    env = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    try:
        done = subprocess.run(
            [program, *command[1:]],
            cwd=folder, env=env, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Missing(f"{command[0]} took more than {SECONDS} s") from None
    if done.returncode or not target.exists():
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise Missing(f"{command[0]} failed ({done.returncode}): {said[:200]}")
