#!/usr/bin/env bash
# Builds the emulated GPU into a folder, under the names of the libraries it stands for:
# `LD_LIBRARY_PATH=FOLDER prune ... --device cuda`. Needs g++ on x86-64.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="$1"
mkdir -p "$out"
sed -n 's/^KERNEL \(\w*\).*/OURS(\1)/p' "$here"/../../../src/ops/cuda/kernels/*.cu > "$out/kernels.inc"
g++ -std=c++17 -O2 -ffp-contract=off -fPIC -shared -Wall -Wno-unknown-pragmas -I"$out" -o "$out/libcuda.so.1" \
  -x c++ "$here/emulator.cpp" -pthread
for name in libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do ln -sf libcuda.so.1 "$out/$name"; done
