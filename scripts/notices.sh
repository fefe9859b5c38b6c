#!/usr/bin/env bash
# Writes THIRD-PARTY-NOTICES: the licences of all crates in the addon. Run it
# when a dependency has changed. cargo-about compiles for some minutes the first
# time.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/.setup/cargo-about
cargo install --quiet --locked --features cli --root "$root" cargo-about@0.9.3
"$root/bin/cargo-about" generate --fail --output-file THIRD-PARTY-NOTICES \
  --config scripts/notices/about.toml scripts/notices/text.hbs
