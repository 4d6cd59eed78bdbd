"""Write models/lenet5.onnx: LeNet-5 with BatchNormalization kept as nodes, seeded and calibrated.

    python scripts/export_lenet5.py [OUT]

Needs torch. The network is Conv-BatchNorm-ReLU-MaxPool twice, then 400-120-84-10; the input is
1x1x32x32. The weights are not trained: they are drawn so that activations keep their scale, and
the running statistics are those of a forward pass, as training would leave them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from torch import nn

MODELS = Path(__file__).resolve().parent.parent / "models"


class LeNet5(nn.Module):
    """LeNet-5 for `num_classes` classes; images of shape [N, 1, 32, 32] in, logits out."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5, stride=1, padding=0)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu1 = nn.ReLU()
        self.maxpool1 = nn.MaxPool2d(kernel_size=2, stride=2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5, stride=1, padding=0)
        self.bn2 = nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU()
        self.maxpool2 = nn.MaxPool2d(kernel_size=2, stride=2)
        self.fc = nn.Linear(400, 120)
        self.relu = nn.ReLU()
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [N, num_classes]."""
        out = self.maxpool1(self.relu1(self.bn1(self.conv1(x))))
        out = self.maxpool2(self.relu2(self.bn2(self.conv2(out))))
        out = out.reshape(out.size(0), -1)
        out = self.relu(self.fc(out))
        out = self.relu1(self.fc1(out))
        return self.fc2(out)


def calibrate(model: nn.Module, batch: torch.Tensor) -> nn.Module:
    """Return `model` in eval mode, weights scaled by fan-in, statistics measured on `batch`."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0, math.sqrt(2 / fan_in))
            nn.init.normal_(module.bias, 0, 0.05)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.2)
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        model(batch)
    return model.eval()


def main() -> None:
    """Export to the path given, models/lenet5.onnx by default."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", nargs="?", type=Path, default=MODELS / "lenet5.onnx")
    out = parser.parse_args().out
    torch.manual_seed(1234)
    model = calibrate(LeNet5(num_classes=10), torch.randn(256, 1, 32, 32))
    torch.onnx.export(
        model,
        (torch.randn(1, 1, 32, 32),),
        str(out),
        input_names=["image"],
        output_names=["logits"],
        opset_version=17,
        dynamo=False,
        # PRESERVE keeps BatchNormalization apart from Conv; the model is in eval mode all the same.
        training=torch.onnx.TrainingMode.PRESERVE,
    )
    print(f"{out}: {out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
