#!/usr/bin/env bash
# Builds the addon and index.d.ts, for the target that is named or for this
# machine. See scripts/cargo.sh for the version of glibc.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-$(rustc -vV | sed -n 's/^host: //p')}
cross=()
case $target in
  *-linux-gnu)
    target=$target.2.28
    cross=(--cross-compile)
    ;;
  *-linux-musl) cross=(--cross-compile) ;;
esac
PATH=$PWD/.setup/tools/bin:$PATH
exec npx napi build --platform --release --no-dts-cache --no-js \
  --dts index.d.ts --target "$target" "${cross[@]}"
