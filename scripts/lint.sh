#!/usr/bin/env bash
# Runs all lints, and fails at the end if one of them failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

failed=0
check() {
  echo "lint: $*"
  "$@" || failed=1
}

check node scripts/setup.mjs
check cargo fmt --check
check bash scripts/cargo.sh clippy --release --all-targets --quiet -- --deny warnings
check npx tsc --noEmit
check npx oxlint --deny-warnings
check npx prettier --check --log-level warn .
# The generated loader and types are committed. They must match the build.
check git diff --exit-code --stat -- index.js index.d.ts
exit $failed
