#!/usr/bin/env bash
# Runs all tests. Prepares by itself what the independent readers need (a pinned Python environment in target/venv);
# where that cannot be had, the tests that need it say that they were skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
tests/python/prepare.sh
cargo test --release --workspace "$@"
