#!/usr/bin/env bash
# Runs cargo with an explicit target, so that build, tests and lints share one
# set of compiled dependencies, SQLite included.
#
# On Linux with glibc the target is glibc 2.28, the oldest version that Node.js
# 22 supports, whichever version this machine has. zig links for it.
set -euo pipefail
host=$(rustc -vV | sed -n 's/^host: //p')
command=$1
shift
case $host in
  *-linux-gnu)
    PATH=$(cd "$(dirname "$0")/.." && pwd)/.setup/tools/bin:$PATH
    exec cargo-zigbuild "$command" --target "$host.2.28" "$@"
    ;;
  *) exec cargo "$command" --target "$host" "$@" ;;
esac
