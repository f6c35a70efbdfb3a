#!/usr/bin/env bash
# Every static check: scripts/lint.sh [BUILD], where BUILD holds a compile_commands.json (default build/cpp).
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build/cpp}

refuse() { # refuse MESSAGE PATTERN FILES...: fails where a file holds the pattern
  local message=$1 pattern=$2
  shift 2
  if [ $# -gt 0 ] && grep -nE "$pattern" "$@"; then
    echo "lint: $message" >&2
    exit 1
  fi
}

mapfile -t files < <(git ls-files --cached --others --exclude-standard)
mapfile -t sources < <(printf '%s\n' "${files[@]}" | grep -E '\.(h|cpp|cu|cuh)$')
mapfile -t long < <(wc -l "${sources[@]}" $(printf '%s\n' "${files[@]}" | grep -E '\.py$') | awk '$2 != "total" && $1 > 400 {print $2 ": " $1 " lines"}')
mapfile -t tidied < <(printf '%s\n' "${sources[@]}" | grep -E '^(csrc/(graph|rewrite)|pattern_rewrites)/.*\.cpp$')

echo "lint: text"
refuse "only kernels/common/gpu.h may know HIP" '__HIP' $(printf '%s\n' "${sources[@]}" | grep -v 'kernels/common/gpu\.h$')
refuse "nothing may point outside the repository" '\.\./share[d]|/wor[k]/' "${files[@]}"
if [ ${#long[@]} -gt 0 ]; then
  printf 'lint: more than 400 lines: %s\n' "${long[@]}" >&2
  exit 1
fi

echo "lint: ruff, mypy"
ruff check .
ruff format --check .
mypy

echo "lint: clang-format, ${#sources[@]} files"
clang-format --dry-run -Werror "${sources[@]}"

echo "lint: clang-tidy, ${#tidied[@]} files"
printf '%s\n' "${tidied[@]}" | xargs -P "$(nproc)" -n 1 clang-tidy -p "$build" --quiet 2> >(grep -v 'warnings generated' >&2)
