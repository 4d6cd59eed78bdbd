#!/usr/bin/env bash
# Builds the native library with AddressSanitizer and UndefinedBehaviorSanitizer, runs the tests that
# use it, and looks for memory that 1000 runs of a session leave behind. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh "[test]"
"$python" -m pip install --quiet cmake ninja
bin=$(dirname "$("$python" -c 'import sys; print(sys.executable)')")
"$bin/cmake" -S onnx_fusion/native -B build/sanitize -G Ninja \
  -DCMAKE_MAKE_PROGRAM="$bin/ninja" -DONNX_FUSION_SANITIZE=ON -DONNX_FUSION_WERROR=ON >/dev/null
"$bin/cmake" --build build/sanitize -- --quiet
export ONNX_FUSION_LIBRARY=$PWD/build/sanitize/libonnx_fusion.so
export LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libstdc++.so.6)"
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export ONNX_FUSION_EMULATOR_FLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined"
if [ $# -eq 0 ]; then
  shopt -s nullglob
  set -- tests/test_ort_op.py tests/test_library.py tests/test_native*.py tests/test_cuda_op.py \
    tests/test_cuda_device.py tests/test_cuda_schedules.py
fi
# Python and ONNX Runtime leave memory to the end of the process; the second step looks at ours.
ASAN_OPTIONS=detect_leaks=0 "$python" -m pytest -p no:cacheprovider \
  --deselect tests/test_library.py::test_needs_nothing_but_the_c_and_cxx_runtime "$@"
ASAN_OPTIONS=detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=12 LSAN_OPTIONS=exitcode=0 \
  "$python" scripts/check_leaks.py --any-growth 2> build/sanitize/leaks.txt
if grep -q 'onnx_fusion/native\|libonnx_fusion' build/sanitize/leaks.txt; then
  echo "memory of libonnx_fusion is left behind, see build/sanitize/leaks.txt" >&2
  exit 1
fi
echo "sanitizers found nothing, and 1000 runs of a session left nothing behind"
