"""Export architectures with fixed and with free extents: the plans must agree, and the free ones
run at any size.

    python scripts/check_dynamic.py [--only bert_base,gpt2] [--exporters torchscript,dynamo]

Needs torch, torchvision and transformers. A line for each architecture and exporter: the regions of
the export with fixed extents, of the one with free extents, and for each size whether the optimized
model gives the original's results, with the library and without. Exits with 1 if one does not, or
if the numbers of regions differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from onnx_fusion import api
from onnx_fusion.cli import show
from onnx_fusion.runtime.verify import verify

Arrays = dict[str, np.ndarray]


class Encoder(torch.nn.Module):
    """BERT-base with random weights: token numbers and mask [B, S] in, hidden states [B, S, 768]
    out."""

    def __init__(self) -> None:
        import transformers

        super().__init__()
        config = transformers.BertConfig()
        self.model = transformers.BertModel._from_config(config, attn_implementation="eager")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, return_dict=False)[0]


class Mobile(torch.nn.Module):
    """DistilBERT of three layers: token numbers and mask [B, S] in, hidden states [B, S, 768]
    out."""

    def __init__(self) -> None:
        import transformers

        super().__init__()
        config = transformers.DistilBertConfig(n_layers=3)
        self.model = transformers.DistilBertModel._from_config(config, attn_implementation="eager")

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, attention_mask=mask, return_dict=False)[0]


class Decoder(torch.nn.Module):
    """GPT-2 of three layers: token numbers [B, S] in, hidden states [B, S, 768] out."""

    def __init__(self) -> None:
        import transformers

        super().__init__()
        config = transformers.GPT2Config(n_layer=3)
        self.model = transformers.GPT2Model._from_config(config, attn_implementation="eager")

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model(input_ids=ids, use_cache=False, return_dict=False)[0]


class Pyramid(torch.nn.Module):
    """Three convolutions down, two up by Resize to the extents of what they are added to."""

    def __init__(self) -> None:
        super().__init__()
        conv = torch.nn.Conv2d
        self.first, self.second = conv(3, 16, 3, 2, 1), conv(16, 32, 3, 2, 1)
        self.side, self.last = conv(16, 32, 1), conv(32, 16, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        resize = torch.nn.functional.interpolate
        a = torch.relu(self.first(x))
        b = torch.relu(self.second(a))
        y = resize(b, size=a.shape[-2:], mode="nearest") + self.side(a)
        return resize(self.last(y), size=x.shape[-2:], mode="bilinear")


def bert_base() -> torch.nn.Module:
    return Encoder()


def vit_b_32() -> torch.nn.Module:
    import torchvision

    # Its fused inference kernel has no ONNX form in the TorchScript exporter.
    torch.backends.mha.set_fastpath_enabled(False)
    model = torchvision.models.vit_b_32(weights=None)
    torch.nn.init.normal_(model.heads.head.weight, std=0.02)  # zeros would hide every error
    return model


def swin_t() -> torch.nn.Module:
    import torchvision

    return torchvision.models.swin_t(weights=None)


def mobilenet_v2() -> torch.nn.Module:
    import torchvision

    return torchvision.models.mobilenet_v2(weights=None)


def tokens(batch: int, length: int) -> Arrays:
    """Return token numbers and a mask that leaves the last eighth out."""
    random = np.random.default_rng(length)
    mask = np.ones((batch, length), np.int64)
    mask[:, length - length // 8 :] = 0
    return {"ids": random.integers(5, 30000, (batch, length)), "mask": mask}


def numbers(batch: int, length: int) -> Arrays:
    return {"ids": tokens(batch, length)["ids"]}


def images(batch: int, size: int) -> Arrays:
    random = np.random.default_rng(size)
    return {"x": random.standard_normal((batch, 3, size, size), np.float32)}


# What builds the module, what makes inputs, the free axes, the fixed size, and the sizes to run.
# Fixed sizes are large enough that no region is merged for being small, which free ones cannot be.
ARCHITECTURES: dict[str, tuple[Callable, Callable, dict, tuple, list[tuple]]] = {
    "bert_base": (
        bert_base, tokens, {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}},
        (1, 128), [(1, 128), (3, 17), (2, 200)],
    ),
    "mobilenet_v2": (
        mobilenet_v2, images, {"x": {0: "batch", 2: "height", 3: "width"}},
        (1, 224), [(1, 224), (2, 160), (3, 97)],
    ),
    "vit_b_32": (vit_b_32, images, {"x": {0: "batch"}}, (1, 224), [(1, 224), (3, 224), (2, 224)]),
    "swin_t": (swin_t, images, {"x": {0: "batch"}}, (1, 224), [(1, 224), (3, 224), (2, 224)]),
    "gpt2": (
        Decoder, numbers, {"ids": {0: "batch", 1: "length"}},
        (4, 128), [(1, 32), (3, 17), (2, 20)],
    ),
    "distilbert": (
        Mobile, tokens, {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}},
        (4, 128), [(1, 32), (3, 17), (2, 20)],
    ),
    "pyramid": (
        Pyramid, images, {"x": {0: "batch", 2: "height", 3: "width"}},
        (1, 64), [(1, 64), (2, 72), (3, 61)],
    ),
}  # fmt: skip


def export(module: torch.nn.Module, inputs: Arrays, free: dict, dynamo: bool, path: Path) -> None:
    """Write the module as an ONNX model; `free` names the free axes of its inputs."""
    names = list(inputs)
    arguments = tuple(torch.from_numpy(a) for a in inputs.values())
    options: dict = {"input_names": names, "dynamo": dynamo}
    if dynamo:
        options |= {"opset_version": 20, "external_data": False, "verbose": False}
        if free:
            options["dynamic_shapes"] = tuple(
                {axis: torch.export.Dim.DYNAMIC for axis in free[name]} for name in names
            )
    else:
        options |= {"opset_version": 17, "dynamic_axes": free}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), arguments, path, **options)


def main() -> int:
    """Print the table; return 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default=",".join(ARCHITECTURES))
    parser.add_argument("--exporters", default="torchscript,dynamo")
    args = parser.parse_args()
    rows, fine = [], True
    for name in args.only.split(","):
        build, make, free, fixed, sizes = ARCHITECTURES[name]
        torch.manual_seed(0)
        module = build()
        for exporter in args.exporters.split(","):
            show.say(f"{name}, {exporter}")
            with tempfile.TemporaryDirectory() as folder:
                static, dynamic, made = (
                    Path(folder) / f"{kind}.onnx" for kind in ("static", "dynamic", "optimized")
                )
                # Extents of 1 would be fixed in the export with free ones.
                try:
                    export(module, make(*fixed), {}, exporter == "dynamo", static)
                    export(module, make(*sizes[-1]), free, exporter == "dynamo", dynamic)
                except torch.onnx.errors.UnsupportedOperatorError as error:
                    show.say(f"not exported: {str(error).partition(chr(10))[0]}")
                    continue
                counts = [len(api.plan(path, policy="all").regions) for path in (static, dynamic)]
                api.optimize_file(dynamic, made, policy="all")
                results = [check(dynamic, made, make(*size)) for size in sizes]
            fine &= counts[0] == counts[1] and all(r.startswith("passed") for r in results)
            rows.append([name, exporter, *map(str, counts), *results])
    at = [f"size {k + 1}" for k in range(3)]
    show.table(["model", "exporter", "regions fixed", "free", *at], rows, left=2)
    return 0 if fine else 1


def check(original: Path, optimized: Path, inputs: Arrays) -> str:
    """Return whether the models agree on these inputs, with the library and without."""
    worst = 0.0
    for library in (True, False):
        report = verify(original, optimized, inputs, library=library)
        if not report.passed:
            return f"failed ({report.failure()})"
        worst = max([worst, *(output.range_error for output in report.outputs)])
    shape = "x".join(map(str, next(iter(inputs.values())).shape))
    return f"passed {shape} {worst:.1e}"


if __name__ == "__main__":
    sys.exit(main())
