"""Write models/tiny_attention.onnx and models/tiny_depthwise.onnx, seeded.

    python scripts/export_small.py [FOLDER]

Needs torch. The first is a two-layer transformer encoder with dynamic batch and sequence, token
embeddings and an attention mask; the second is a stem and inverted residual blocks with depthwise
convolution, squeeze-and-excitation and HardSwish, as in MobileNetV3.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

MODELS = Path(__file__).resolve().parent.parent / "models"


class Layer(nn.Module):
    """One post-norm encoder layer: multi-head attention and a GELU feed-forward."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, S, W] as [B, heads, S, W / heads]."""
        return x.view(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)

    def forward(self, x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the layer's output [B, S, W]; `bias` [B, 1, 1, S] is added to the scores."""
        query, key = self.split(self.query(x)), self.split(self.key(x))
        value = self.split(self.value(x))
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[-1]) + bias
        mixed = torch.softmax(scores, -1) @ value
        x = self.norm1(x + self.project(mixed.transpose(1, 2).reshape(x.shape)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class TinyAttention(nn.Module):
    """Token ids [B, S] and mask [B, S] to class logits [B, 5] and hidden states [B, S, 64]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(300, 64)
        self.layers = nn.ModuleList(Layer(64, 4, 128) for _ in range(2))
        self.classify = nn.Linear(64, 5)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logits of the first token, and all hidden states."""
        bias = (1.0 - mask[:, None, None, :].float()) * -10000.0
        x = self.tokens(ids)
        for layer in self.layers:
            x = layer(x, bias)
        return self.classify(torch.tanh(x[:, 0])), x


class Squeeze(nn.Module):
    """Squeeze-and-excitation: channels scaled by a gate computed from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // 4, 1)
        self.expand = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` times its gate."""
        gate = functional.relu(self.reduce(functional.adaptive_avg_pool2d(x, 1)))
        return x * functional.hardsigmoid(self.expand(gate))


class Block(nn.Module):
    """An inverted residual block; the input is added where the shapes agree."""

    def __init__(self, channels: int, hidden: int, out: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.residual = stride == 1 and channels == out
        self.expand = nn.Conv2d(channels, hidden, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(
            hidden, hidden, kernel, stride, kernel // 2, groups=hidden, bias=False
        )
        self.bn2 = nn.BatchNorm2d(hidden)
        self.squeeze = Squeeze(hidden)
        self.project = nn.Conv2d(hidden, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output."""
        y = functional.hardswish(self.bn1(self.expand(x)))
        y = functional.hardswish(self.bn2(self.depthwise(y)))
        y = self.bn3(self.project(self.squeeze(y)))
        return x + y if self.residual else y


class TinyDepthwise(nn.Module):
    """Images [1, 3, 64, 64] to logits [1, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.blocks = nn.Sequential(
            Block(16, 48, 16, 3, 1),
            Block(16, 64, 24, 5, 2),
            Block(24, 96, 24, 5, 1),
            Block(24, 120, 40, 3, 2),
        )
        self.classify = nn.Linear(40, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        x = self.blocks(functional.hardswish(self.bn(self.stem(x))))
        return self.classify(functional.adaptive_avg_pool2d(x, 1).flatten(1))


def draw(model: nn.Module) -> nn.Module:
    """Return `model` with weights scaled by fan-in and norms that are not the identity."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, 0, math.sqrt(2 / module.weight[0].numel()))
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 1 / math.sqrt(module.in_features))
            nn.init.normal_(module.bias, 0, 0.05)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
    return model


def attention(folder: Path) -> Path:
    """Write tiny_attention.onnx into `folder` and return its path."""
    torch.manual_seed(1234)
    model = draw(TinyAttention()).eval()
    ids, mask = torch.randint(0, 300, (2, 12)), torch.ones(2, 12, dtype=torch.int64)
    out = folder / "tiny_attention.onnx"
    torch.onnx.export(
        model,
        (ids, mask),
        str(out),
        input_names=["ids", "mask"],
        output_names=["logits", "hidden"],
        dynamic_axes={name: {0: "batch", 1: "sequence"} for name in ("ids", "mask", "hidden")}
        | {"logits": {0: "batch"}},
        opset_version=17,
        dynamo=False,
    )
    return out


def depthwise(folder: Path) -> Path:
    """Write tiny_depthwise.onnx into `folder` and return its path."""
    torch.manual_seed(1234)
    model = draw(TinyDepthwise())
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(32, 3, 64, 64))
    out = folder / "tiny_depthwise.onnx"
    torch.onnx.export(
        model.eval(),
        (torch.randn(1, 3, 64, 64),),
        str(out),
        input_names=["image"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
    )
    return out


def main() -> None:
    """Write both models into the folder given, models/ by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=MODELS)
    folder = parser.parse_args().folder
    for out in (attention(folder), depthwise(folder)):
        print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
