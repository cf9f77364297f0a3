#!/usr/bin/env bash
# Make a bare Debian or Ubuntu machine ready for emulation: a kernel with netem, Open vSwitch, Mininet, then scripts/setup.sh.
# One script for the Vagrant box, cloud-init, the container image and a machine under your desk. Repeatable.
# usage: sudo scripts/provision.sh [--user NAME] [--no-kernel]
#        --user NAME   who will own .venv (default: who called sudo, else root)
#        --no-kernel   leave the kernel alone (containers: they use their host's)
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
refuse() { echo "error: $*" >&2; exit 2; }

WHO=${SUDO_USER:-root}
WITH_KERNEL=1
while [ $# -gt 0 ]; do
  case $1 in
    --user) [ $# -ge 2 ] || refuse "--user needs a name"; WHO=$2; shift 2 ;;
    --no-kernel) WITH_KERNEL=; shift ;;
    -h | --help) sed -n '2,6s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) refuse "unknown option $1; known: --user NAME, --no-kernel" ;;
  esac
done

[ "$(id -u)" = 0 ] || refuse "it installs packages: run it as root (sudo scripts/provision.sh)"
id "$WHO" >/dev/null 2>&1 || refuse "there is no user $WHO on this machine"
[ -r /etc/os-release ] || refuse "/etc/os-release is missing: only Debian and Ubuntu are known here"
. /etc/os-release
case " $ID ${ID_LIKE:-} " in
  *" debian "* | *" ubuntu "*) ;;
  *) refuse "this is $ID; only Debian, Ubuntu and what derives from them are known here (docs/vm.md says what is needed)" ;;
esac

install() { DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null; }

# Cloud images come with kernels that leave the packet schedulers out; the distribution's generic kernel has them.
kernel_with_netem() {
  modprobe -n sch_netem 2>/dev/null && return 0
  local release; release=$(uname -r)
  if [ "$ID" = ubuntu ] && apt-cache show "linux-modules-extra-$release" >/dev/null 2>&1; then
    say "installing the rest of this kernel's modules"
    install "linux-modules-extra-$release"
    modprobe -n sch_netem 2>/dev/null && return 0
  fi
  say "installing the generic kernel: $release has no netem"
  if [ "$ID" = ubuntu ]; then install linux-image-generic; else install "linux-image-$(dpkg --print-architecture)"; fi
  RESTART=1
}

RESTART=
say "updating the package lists"
apt-get -qq update
say "installing build tools, Open vSwitch and kernel module tools"
install ca-certificates kmod make openvswitch-switch python3-venv rsync sudo
[ -z "$WITH_KERNEL" ] || kernel_with_netem
say "setting the testbed up for $WHO"
# OS packages as root, then everything in .venv as its owner
scripts/setup.sh os-packages
if [ "$WHO" = root ]; then scripts/setup.sh; else sudo -H -u "$WHO" env D3_SKIP_OS_PACKAGES=1 scripts/setup.sh; fi
.venv/bin/testbed doctor
[ -z "$RESTART" ] || say "restart this machine now: its new kernel has netem (Vagrant: vagrant reload)"
