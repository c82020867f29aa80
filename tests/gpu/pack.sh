#!/usr/bin/env bash
# Packs what tests/gpu/run.sh needs on a machine with a GPU and no Rust: the program and the tests, built with the feature
# `cuda` and stripped. usage: tests/gpu/pack.sh [ARCHIVE], default target/gpu.tar.xz
set -euo pipefail
cd "$(dirname "$0")/../.."
archive="$(realpath -m "${1:-target/gpu.tar.xz}")"
stage="$(mktemp -d)"
trap 'rm -rf "$stage"' EXIT
cargo build --release --locked --features cuda --bin prune
tests="$(cargo test --release --locked --features cuda --test gpu --no-run --message-format json |
  python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["kind"] == ["test"]:
        print(message["executable"])')"
strip -o "$stage/gpu" "$tests"
target="$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"
strip -o "$stage/prune" "${CARGO_TARGET_DIR:-$target}/release/prune"
XZ_OPT=-2 tar -C "$stage" -cJf "$archive" .
ls -l "$archive"
