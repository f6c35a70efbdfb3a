#!/usr/bin/env bash
# Builds for the CPU and for Hopper in this checkout, without a network, and then does as told:
#   scripts/device_run.sh build
#   scripts/device_run.sh tests [PYTEST ARGUMENTS]      all Python tests, on the GPU where they have a GPU variant
#   scripts/device_run.sh sanitize                      memcheck and racecheck over every kernel
#   scripts/device_run.sh bench SCRIPT [ARGUMENTS]      bench/SCRIPT.py
# Needs nvcc, and a python3 with torch, pybind11, cmake and ninja. Logs go to $OUT (default build/device/out).
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:-build}
shift || true
out=${OUT:-$PWD/build/device/out}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 CMAKE_BUILD_PARALLEL_LEVEL=$(nproc)

versions() {
  python3 -c 'import torch, transformers; print("torch", torch.__version__, "transformers", transformers.__version__)'
  nvcc --version | tail -1
  nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
}

build() {
  local start=$SECONDS
  cmake -S . -B build/device -G Ninja -DPython_EXECUTABLE="$(command -v python3)" -DLIGER_CUDA=ON \
    -DLIGER_CUDA_ARCHITECTURES=90a-real -DLIGER_BUILD_TESTS=OFF > "$out/build.log" 2>&1 &&
    cmake --build build/device >> "$out/build.log" 2>&1 || { tail -60 "$out/build.log"; exit 1; }
  echo "built in $((SECONDS - start)) s"
}

sanitize() { # sanitize TOOL ARGUMENTS OF exercise_kernels.py
  local tool=$1
  shift
  # Without torch's caching allocator every tensor is an allocation of its own, so that its bounds are checked.
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout "${SANITIZE_SECONDS:-500}" compute-sanitizer --tool "$tool" \
    --kernel-name kernel_substring=liger --error-exitcode 9 --print-limit 20 python3 scripts/exercise_kernels.py "$@" 2>&1 |
    tee "$out/$tool.log" | tail -25
}

versions | tee "$out/versions.txt"
build
export PYTHONPATH=$PWD/build/device/site
case $mode in
  build) ;;
  tests) python3 -m pytest -q --ignore tests/test_cpp.py "$@" 2>&1 | tee "$out/tests.log" | tail -60 ;;
  sanitize)
    sanitize memcheck
    sanitize racecheck --no-half-products
    ;;
  bench)
    script=${1:?bench needs the name of a script}
    shift
    python3 "bench/$script.py" --json "$out/$script.json" "$@" 2>&1 | tee "$out/$script.log" | tail -80
    ;;
  *) echo "unknown mode: $mode" >&2; exit 2 ;;
esac
