#!/usr/bin/env bash
# Every opinion we hold, checked. Runs all of them and fails if one did.
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
# The generated loader and types are committed: what users read is what we built.
check git diff --exit-code --stat -- index.js index.d.ts
exit $failed
