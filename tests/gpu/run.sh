#!/usr/bin/env bash
# On a machine with a GPU and no Rust: unpacks what tests/gpu/pack.sh made, runs the tests on the GPU, then the benchmarks,
# then the same work in transformers, PEFT and bitsandbytes where those are installed, all in less than ten minutes. The
# results stand on standard output. PRUNE_BENCH_DIR says where checkpoints of 16 GB go.
# usage: tests/gpu/run.sh [ARCHIVE], default target/gpu.tar.xz
set -uo pipefail
cd "$(dirname "$0")/../.."
archive="${1:-target/gpu.tar.xz}"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
tar -C "$work" -xJf "$archive" || exit 1
# cuBLAS and cuRAND from the machine's Python packages, where the system has none
for site in $(python3 -c 'import site, sys; print(*site.getsitepackages(), site.getusersitepackages())' 2>/dev/null); do
  [ -d "$site/nvidia/cu13/lib" ] && LD_LIBRARY_PATH="$site/nvidia/cu13/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
done
export LD_LIBRARY_PATH CARGO_MANIFEST_DIR="$PWD" PRUNE_REQUIRE_GPU=1
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
status=0
step() { printf '\n== %s (%ss)\n' "$1" "$SECONDS"; }

step 'tests'
timeout 360 "$work/gpu" || status=1
step 'the demo model, whole job'
"$work/prune" demo --extract "$work/atlas" --quiet || status=1
for device in cpu cuda; do
  "$work/prune" analyze "$work/atlas/model" --data "$work/atlas/text/validation.jsonl" --samples 150 --layers 4 \
    --device "$device" -o "$work/analysis-$device" | sed -n '1,16p' || status=1
done
"$work/prune" eval "$work/atlas/model" --tasks mmlu,boolq --data-dir "$work/atlas" --device cuda || status=1
export PRUNE_BENCH_DIR="${PRUNE_BENCH_DIR:-$work/bench}"
step 'benchmarks'
PRUNE_BENCH_PARTS=kernels,analysis,healing timeout 120 "$work/gpu" --ignored --nocapture benchmarks 2>&1 || status=1
step 'transformers, PEFT, bitsandbytes'
if python3 -c 'import peft, torch, transformers; assert torch.cuda.is_available()' 2>/dev/null; then
  HF_HUB_DISABLE_PROGRESS_BARS=1 timeout 120 python3 -W ignore tests/gpu/peers.py "$PRUNE_BENCH_DIR" || status=1
else
  echo 'skipped: no PyTorch with CUDA, transformers and PEFT'
fi
step 'the longest sequences'
PRUNE_BENCH_PARTS=longest timeout 180 "$work/gpu" --ignored --nocapture benchmarks 2>&1 || status=1
rm -f "$PRUNE_BENCH_DIR/model.safetensors"
step "done, status $status"
exit "$status"
