#!/usr/bin/env bash
# Installs onnx_fusion, optimizes LeNet-5, verifies the result and prints how much faster it is.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh ""
out=build/lenet5.fused.onnx
"$python" -m onnx_fusion optimize models/lenet5.onnx "$out" --policy all --verify
"$python" -m onnx_fusion bench models/lenet5.onnx "$out" --threads 1
