#!/usr/bin/env bash
# Set this checkout up: OS packages (when root or sudo allows), a virtual environment in .venv, all Python packages.
# One script for `make run`, `make test`, CI and the Vagrant box. Repeatable; returns at once when nothing has changed.
# usage: scripts/setup.sh [kernel | browser [must] | open-vswitch [must] | os-packages]   "kernel": also the tools that `testbed kernel build` needs;
#        "browser": also what the tests of HTML reports look at them with ("must": or fail);
#        "open-vswitch": also the other kind of switches for the mininet backend ("must": or fail); "os-packages": these and nothing else
#        environment variables: PYTHON (default python3), D3_SKIP_OS_PACKAGES=1
set -euo pipefail
cd "$(dirname "$0")/.."

OS_PACKAGES=(mininet iproute2 bridge-utils ethtool iputils-ping tcpdump)
OS_COMMANDS=(mnexec ip brctl ethtool ping tcpdump)
KERNEL_PACKAGES=(gcc make flex bison bc libelf-dev xz-utils)
KERNEL_COMMANDS=(gcc make flex bison bc xz)
TORCH_VERSION=2.13.0
VENV=.venv
STAMP=$VENV/.setup-stamp

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1; fi
}

kernel_tools() {
  [ -z "${D3_SKIP_OS_PACKAGES:-}" ] || return 0
  local command missing=()
  for command in "${KERNEL_COMMANDS[@]}"; do
    command -v "$command" >/dev/null || missing+=("$command")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing what a kernel is built with: ${KERNEL_PACKAGES[*]}"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update \
    && as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${KERNEL_PACKAGES[@]}" >/dev/null \
    || say "note: could not install them; needed: sudo apt-get install ${KERNEL_PACKAGES[*]}"
}

browser() {
  local found=1
  "$VENV/bin/python" -c 'import playwright' 2>/dev/null || "$VENV/bin/pip" install -q 'playwright>=1.49' 2> >(grep -v '^WARNING: Location' >&2) || found=
  if ! command -v chromium >/dev/null; then
    say "installing chromium, for the tests of HTML reports"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update \
      && as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-dejavu-core >/dev/null \
      || "$VENV/bin/python" -m playwright install chromium >/dev/null || found=
  fi
  [ -z "$found" ] || return 0
  say "note: no headless browser; tests of HTML reports need it: sudo apt-get install chromium"
  [ "$1" != must ]
}

open_vswitch() {
  if ! PATH=$PATH:/usr/sbin:/sbin command -v ovs-vswitchd >/dev/null && [ -z "${D3_SKIP_OS_PACKAGES:-}" ]; then
    say "installing Open vSwitch, for the tests of networks with its switches"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update \
      && as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends openvswitch-switch >/dev/null || true
  fi
  ! PATH=$PATH:/usr/sbin:/sbin command -v ovs-vswitchd >/dev/null || return 0
  say "note: no Open vSwitch; tests of its switches need it: sudo apt-get install openvswitch-switch"
  [ "$1" != must ]
}

os_packages() {
  [ -z "${D3_SKIP_OS_PACKAGES:-}" ] || return 0
  local missing=() command
  for command in "${OS_COMMANDS[@]}"; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null || missing+=("$command")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if ! command -v apt-get >/dev/null; then
    say "note: ${missing[*]} not found; install the packages of Mininet for your system to use the mininet backend (sim needs none)"
    return 0
  fi
  say "installing OS packages for emulation: ${OS_PACKAGES[*]}"
  if as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq update \
    && as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${OS_PACKAGES[@]}" >/dev/null; then
    return 0
  fi
  say "note: could not install them; the mininet backend needs: sudo apt-get install ${OS_PACKAGES[*]}   (sim needs none)"
}

find_python() {
  PYTHON=${PYTHON:-python3}
  if ! "$PYTHON" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: Python 3.11 or newer is needed, and $PYTHON is not; set PYTHON=/path/to/python3.11" >&2
    exit 2
  fi
  if ! "$PYTHON" -c 'import ensurepip' 2>/dev/null; then
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv >/dev/null \
      || { echo "error: $PYTHON has no ensurepip; install it: sudo apt-get install python3-venv" >&2; exit 2; }
  fi
}

install_torch() {
  "$VENV/bin/python" -c "import torch, sys; sys.exit(torch.__version__.split('+')[0] != '$TORCH_VERSION')" 2>/dev/null && return 0
  # The CPU build is a tenth of the size of the default one: look for it first where pip already looks, then at PyTorch's own index.
  say "installing torch $TORCH_VERSION (CPU build)"
  "$VENV/bin/pip" install -q "torch==$TORCH_VERSION+cpu" 2>/dev/null \
    || "$VENV/bin/pip" install -q "torch==$TORCH_VERSION" --index-url https://download.pytorch.org/whl/cpu 2>/dev/null \
    || "$VENV/bin/pip" install -q "torch==$TORCH_VERSION"
}

python_packages() {
  local key
  key=$(cat pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)
  if [ "$(cat "$STAMP" 2>/dev/null)" = "$key" ]; then return 0; fi
  find_python
  [ -x "$VENV/bin/python" ] || { say "creating $VENV"; "$PYTHON" -m venv "$VENV"; }
  install_torch
  say "installing Python packages"
  # timm asks for torchvision, whose wheel beside a CPU torch needs no more than is pinned here
  "$VENV/bin/pip" install -q -e '.[zoo,emulation,analysis,dev,docs]' "torch==$TORCH_VERSION" 2> >(grep -v '^WARNING: Location' >&2)
  echo "$key" >"$STAMP"
}

os_packages
[ "${1:-}" != os-packages ] || exit 0
python_packages
[ "${1:-}" != kernel ] || kernel_tools
[ "${1:-}" != browser ] || browser "${2:-}"
[ "${1:-}" != open-vswitch ] || open_vswitch "${2:-}"
