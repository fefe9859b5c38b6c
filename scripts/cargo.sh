#!/usr/bin/env bash
# Cargo, building for the same target by name as the addon's build does: tests
# and lints then share what that has built, SQLite included.
set -euo pipefail
CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET
exec cargo "$@"
