#!/usr/bin/env bash
# Compiles every GPU kernel as HIP, host and device code, for one AMD architecture: scripts/compile_hip.sh [ARCH] [OUT]
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-gfx90a}
out=${2:-build/hip-$arch}
mkdir -p "$out"

compile() {
  local source=$1 object
  object=$out/$(basename "$source" .cu).o
  # rocm_agent_enumerator, which hipcc asks for a card, complains where there is none.
  hipcc -x hip --offload-arch="$arch" -std=c++17 -O3 -Wall -Wextra -Werror -Icsrc -c "$source" -o "$object" \
    2> >(grep -v -e rocm_agent_enumerator >&2)
  echo "hip $arch: $source, $(stat -c %s "$object") bytes"
}
export -f compile
export arch out

mapfile -t sources < <(find csrc/kernels -name '*.cu' | sort)
if [ ${#sources[@]} -eq 0 ]; then
  echo "no .cu files under csrc/kernels" >&2
  exit 1
fi
printf '%s\n' "${sources[@]}" | xargs -P "$(nproc)" -I{} bash -c 'set -euo pipefail; compile {}'
