#!/usr/bin/env bash
# `make run`: the quickstart in `sim`, and then, where this machine allows it, a short version of it over Mininet.
# usage: scripts/quickstart.sh BACKEND SCENARIO        (BACKEND: auto = both, sim, mininet)
set -euo pipefail
cd "$(dirname "$0")/.."
backend=$1 scenario=$2
testbed=.venv/bin/testbed
stamp=$(date +%Y%m%d-%H%M%S)

if [ "$backend" = auto ] || [ "$backend" = sim ]; then
  "$testbed" run "$scenario" --backend sim --out "runs/quickstart-sim-$stamp"
fi
[ "$backend" = auto ] || [ "$backend" = mininet ] || exit 0

doctor=$("$testbed" doctor --json)
fact() { .venv/bin/python -c 'import json, sys; d = json.load(sys.stdin); print(eval(sys.argv[1], {"d": d}))' "$1" <<<"$doctor"; }
if [ "$(fact "d['backends']['mininet']['ok']")" != True ]; then
  echo
  echo "Mininet cannot run here: $(fact "'; '.join(d['backends']['mininet']['reasons'])")"
  [ "$backend" = auto ] && exit 0 || exit 2
fi

# Real time: two cores carry six hosts only when the scenario is slowed down, so fewer requests make it short again.
changes=(--set run.time_scale=30 --set requests.count=2)
if [ "$(fact "d['netem']")" != True ]; then
  echo
  echo "This kernel has no netem, so links cannot be delayed here: the same scenario without its delays, over Mininet."
  for link in access backbone lan core; do changes+=(--set "links.$link.delay=0 ms"); done
fi
"$testbed" run "$scenario" --backend mininet "${changes[@]}" --planner cloud-only --planner d3 --out "runs/quickstart-mininet-$stamp"
