#!/usr/bin/env bash
# `make run`: the quickstart in `sim`, then the same scenario on real Linux in virtual time (`vkernel`), and the two side by side.
# Where that kernel cannot be had, a short version over Mininet in real time takes its place.
# usage: scripts/quickstart.sh BACKEND SCENARIO        (BACKEND: auto = as above; sim, vkernel, mininet = that one alone)
set -euo pipefail
cd "$(dirname "$0")/.."
backend=$1 scenario=$2
testbed=.venv/bin/testbed
stamp=$(date +%Y%m%d-%H%M%S)

page() { "$testbed" report "$1" --html >/dev/null; }  # the table has been printed; it says where the page is
run_sim() { "$testbed" run "$scenario" --backend sim --out "runs/quickstart-sim-$stamp"; }
run_vkernel() { "$testbed" run "$scenario" --backend vkernel --out "runs/quickstart-vkernel-$stamp"; }
has_kernel() { .venv/bin/python -c 'import sys; from testbed.kernel import cache; sys.exit(cache.installed() is None)'; }

case $backend in
  auto)
    run_sim
    echo
    scripts/kernel.sh
    if has_kernel; then
      echo "The same scenario on real Linux: Mininet, TCP, HTB and netem in a kernel whose clock is virtual. Two minutes on two idle cores."
      run_vkernel
      echo
      "$testbed" report "runs/quickstart-sim-$stamp" "runs/quickstart-vkernel-$stamp" --html
    else
      page "runs/quickstart-sim-$stamp"
      scripts/quickstart-mininet.sh optional "$scenario" "runs/quickstart-mininet-$stamp"
    fi ;;
  sim) run_sim; page "runs/quickstart-sim-$stamp" ;;
  vkernel) scripts/kernel.sh --must; run_vkernel; page "runs/quickstart-vkernel-$stamp" ;;
  mininet) scripts/quickstart-mininet.sh must "$scenario" "runs/quickstart-mininet-$stamp" ;;
  *) echo "error: BACKEND=$backend: one of auto, sim, vkernel, mininet" >&2; exit 2 ;;
esac
