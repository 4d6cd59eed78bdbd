#!/usr/bin/env bash
# Installs onnx_fusion with what its tests need, and runs them; arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh "[test,cuda]"
exec "$python" -m pytest -n 2 "$@"
