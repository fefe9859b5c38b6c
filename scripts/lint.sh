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
PATH=$PWD/.setup/tools/bin:$PATH
check cargo fmt --check
check bash scripts/cargo.sh clippy --release --all-targets --quiet -- --deny warnings
check cargo deny --log-level warn check licenses bans sources
check bash scripts/advisories.sh
check npx tsc --noEmit
check npx oxlint --deny-warnings
check npx prettier --check --log-level warn .
# The generated types are committed. They must match the build.
check git diff --exit-code --stat -- index.d.ts
exit $failed
