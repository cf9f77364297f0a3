#!/usr/bin/env bash
# The kernel in virtual time that the vkernel backend boots: built once for each user, with its tools; at once when it is there.
# usage: scripts/kernel.sh [--must]     without --must, a machine that cannot build it is told so, and that is no failure
set -euo pipefail
cd "$(dirname "$0")/.."
testbed=.venv/bin/testbed

cannot() {
  echo "==> note: no kernel in virtual time here: $1; the backends sim and mininet do without (testbed doctor)" >&2
  if [ "$must" = --must ]; then exit 1; else exit 0; fi
}

must=${1:-}
[ "$(uname -s)/$(uname -m)" = Linux/x86_64 ] || cannot "it runs on x86-64 Linux only"
# `kernel info` boots what is built and looks at it (some seconds); whether it is built is known without.
if .venv/bin/python -c 'import sys; from testbed.kernel import cache; sys.exit(cache.installed() is None)'; then exit 0; fi
scripts/setup.sh kernel
echo "==> building the kernel in virtual time (once for each user, some minutes)"
"$testbed" kernel build || cannot "building it failed (reasons above)"
