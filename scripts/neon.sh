#!/usr/bin/env bash
# Compiles the native library for aarch64, warnings being errors, and runs the kernels' tests on it in
# an emulator. It needs Debian's packages g++-aarch64-linux-gnu and qemu-user-static, and installs them
# if it may; without them it says so, and ends with 0. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
compiler=aarch64-linux-gnu-g++
emulator=qemu-aarch64-static
if ! command -v $compiler $emulator >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  { apt-get update && apt-get install -y g++-aarch64-linux-gnu qemu-user-static; } >/dev/null 2>&1 || true
fi
for program in $compiler $emulator; do
  if ! command -v $program >/dev/null; then
    echo "aarch64: not run, there is no $program"
    exit 0
  fi
done
. scripts/setup.sh "[test]"
"$python" -m pip install --quiet cmake ninja
bin=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
"$bin/cmake" -S onnx_fusion/native -B build/neon -G Ninja -DCMAKE_MAKE_PROGRAM="$bin/ninja" \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$compiler \
  -DONNX_FUSION_WERROR=ON >/dev/null
"$bin/cmake" --build build/neon -- --quiet
$compiler -std=c++17 -O1 -Wall -Wextra -Werror tests/native_runner.cc -o build/neon/runner \
  -Lbuild/neon -lonnx_fusion -Wl,-rpath,"$PWD/build/neon"
export ONNX_FUSION_NATIVE_RUNNER="$emulator -L /usr/aarch64-linux-gnu $PWD/build/neon/runner"
if [ $# -eq 0 ]; then
  shopt -s nullglob
  set -- -n 2 tests/test_native*.py
fi
"$python" -m pytest -p no:cacheprovider "$@"
