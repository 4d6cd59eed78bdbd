#!/usr/bin/env bash
# Builds, tests and measures on a machine with an NVIDIA GPU, in one run and without a network, and prints
# one table last.
#
#   scripts/gpu_check.sh [build] [tests] [sanitizer] [rates] [models]      (default: all of them)
#
# tests: the op on the CPU in this ONNX Runtime, then every program and the libraries' calls on the device;
# rates: session start, kernels beside a copy and PyTorch, products beside cuBLASLt, convolutions beside
# cuDNN, rows beside torch.compile; models: whole ones beside ONNX Runtime, then beside torch.compile.
# It exits with 1 if a row of the table says NO, with 3 if one says "?" (not measured: no time was left, or
# something is not there).
# It takes PyTorch for CUDA, cmake, ninja and g++ as it finds them. What else is missing can lie in the
# project's folder: wheels in .whl/ (onnx_graphsurgeon, platformdirs, rich ...) and onnxruntime-gpu as
# wheels there or packed, ort_gpu*.tar.xz in .whl/. GPU_CHECK_SECONDS is the time for everything (560),
# OUT the folder for logs (build/gpu_check).
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
steps=${*:-build tests sanitizer rates models}
begin=$(date +%s)
seconds=${GPU_CHECK_SECONDS:-560}
work=$PWD/build/gpu_check
out=${OUT:-$work}
mkdir -p "$work" "$out"
notes=$work/notes
: >"$notes"

left() { echo $((seconds - $(date +%s) + begin)); }
wants() { [[ " $steps " == *" $1 "* ]]; }
# A line of the table: what, measured, target, whether that is reached.
note() { printf '%s|%s|%s|%s\n' "$@" >>"$notes"; }

# Runs a step of at most $2 seconds, its output in a log, and notes how it went.
step() {
  local name=$1 most=$2 start status
  shift 2
  if [ "$(left)" -lt 10 ]; then
    note "$name" "no time left" "passes" "?"
    return 0
  fi
  [ "$most" -gt "$(left)" ] && most=$(left)
  start=$(date +%s)
  timeout "$most" "$@" >"$out/$name.log" 2>&1
  status=$?
  tail -n 5 "$out/$name.log"
  local last
  last=$(grep -v '^ *$' "$out/$name.log" | tail -n 1 | tr '|' ' ' | cut -c1-120)
  note "$name" "$(($(date +%s) - start)) s, $last" "passes" "$([ $status = 0 ] && echo yes || echo "NO ($status)")"
  return $status
}

if compgen -G ".whl/*.whl" >/dev/null; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --upgrade \
    --target "$work/site" .whl/*.whl || exit 1
fi
if [ ! -d "$work/ort" ] && compgen -G ".whl/ort_gpu*.tar.xz" >/dev/null; then
  mkdir -p "$work/ort"
  xz -dc .whl/ort_gpu*.tar.xz | tar -x -C "$work/ort" --strip-components=1 || exit 1
fi
export PYTHONPATH=$work/ort:$work/site:$PWD PYTHONUNBUFFERED=1
libraries=$("$python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")
export LD_LIBRARY_PATH=$(ls -d "$libraries"/nvidia/*/lib 2>/dev/null | tr '\n' ':')${LD_LIBRARY_PATH:-}
export ONNX_FUSION_CACHE=$work/cache ONNX_FUSION_LIBRARY=$work/native/libonnx_fusion.so
# The plain library's own name is libnvrtc.so.13, which a folder of LD_LIBRARY_PATH has.

if wants build; then
  step build 240 bash -c "cmake -G Ninja -DCMAKE_BUILD_TYPE=Release -S onnx_fusion/native \
    -B '$work/native' && ninja -C '$work/native'" || { cat "$notes"; exit 1; }
fi
if wants tests; then
  step tests 60 "$python" -m pytest -q -n 8 tests/test_ort_op.py
  step programs 150 "$python" scripts/gpu_check.py --only programs --seconds 140
  step calls 60 "$python" scripts/gpu_check.py --only calls --seconds 50
fi
if wants sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    sanitize() {  # a tool, a stage, and which of its programs
      local tool=$1 stage=$2
      shift 2
      step "$tool-$stage" 90 compute-sanitizer --tool "$tool" --error-exitcode 9 --print-limit 20 \
        "$python" scripts/gpu_check.py --only "$stage" --programs "$@" --seconds 80
    }
    sanitize memcheck programs row split_normed product_split
    sanitize memcheck calls silu residual "'f16', 'nn'"
    # Products, split or copied or not, attention, rows in parts.
    sanitize racecheck programs 70x product_split split_normed
  else
    note sanitizer "compute-sanitizer is not there" "passes" "?"
  fi
fi
only=()
wants rates && only+=(machine start rates anchors compiled_rates)
wants models && only+=(machine models compiled_models)
exec "$python" scripts/gpu_check.py --only "${only[@]}" --seconds "$(left)" --notes "$notes" \
  --json "$out/gpu_check.json"
