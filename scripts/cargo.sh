#!/usr/bin/env bash
# Runs cargo with an explicit target, as the addon's build does. Tests and lints
# then reuse that build's dependencies, SQLite included.
set -euo pipefail
CARGO_BUILD_TARGET=$(rustc -vV | sed -n 's/^host: //p')
export CARGO_BUILD_TARGET
exec cargo "$@"
