#!/usr/bin/env bash
# Installs what is missing: Debian packages and the virtual environment .venv with this package.
# usage: .ci/setup.sh [demo|test]   (default demo; `test` adds what only the tests and benchmarks need)
# A second run compares a hash and ends at once.
set -euo pipefail
cd "$(dirname "$0")/.."

needs=${1:-demo}
stamp=.venv/.setup-$needs
case $needs in
demo | test) ;;
*) echo "setup: unknown argument '$needs': expected demo or test" >&2; exit 2 ;;
esac

# --- Debian packages -------------------------------------------------------------------------------------------
# "package=file that shows it is there": asking the file system takes microseconds, dpkg half a second.
demo_packages=(
    python3-bpfcc=/usr/lib/python3/dist-packages/bcc/__init__.py
    ca-certificates=/etc/ssl/certs/ca-certificates.crt
)
test_packages=(
    gcc=/usr/bin/gcc
    libc6-dev=/usr/include/stdio.h
    iproute2=/usr/sbin/ip,/sbin/ip,/bin/ip,/usr/bin/ip
    e2fsprogs=/usr/sbin/mkfs.ext4,/sbin/mkfs.ext4
    mount=/usr/sbin/losetup,/sbin/losetup
    util-linux=/usr/bin/nsenter
    prometheus=/usr/bin/prometheus
    zzuf=/usr/bin/zzuf
    faketime=/usr/bin/faketime
    bpftrace=/usr/bin/bpftrace
    systemd=/usr/bin/systemd-analyze,/bin/systemd-analyze
    systemtap-sdt-dev=/usr/include/x86_64-linux-gnu/sys/sdt.h,/usr/include/sys/sdt.h,/usr/include/aarch64-linux-gnu/sys/sdt.h
)

# Whether any of the comma-separated files exists.
exists() {
    local file
    for file in ${1//,/ }; do [ -e "$file" ] && return 0; done
    return 1
}

# Prints the names of the packages whose file is missing.
missing() {
    local entry
    for entry in "$@"; do exists "${entry#*=}" || echo "${entry%%=*}"; done
}

# Debian's way to install a service without starting it: a policy that forbids it, removed again at the end.
policy=/usr/sbin/policy-rc.d
forbid_services() {
    [ -e $policy ] && return 0
    printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
    trap 'rm -f $policy' EXIT
}

install() {
    [ $# -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ]; then
        echo "setup: missing Debian packages: $*" >&2
        echo "setup: run as root once, or: sudo apt-get install $*" >&2
        exit 1
    fi
    if ! command -v apt-get >/dev/null; then
        echo "setup: no apt-get here; install what Debian calls: $*" >&2
        exit 1
    fi
    echo "setup: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    forbid_services
    local options=(-y -q --no-install-recommends -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    # Package lists may be absent or old, so a failure means: refresh and try once more. A third-party source that
    # cannot be reached fails the refresh but not us.
    apt-get install "${options[@]}" "$@" </dev/null >.setup.log 2>&1 && { rm -f .setup.log; return 0; }
    apt-get update -q </dev/null >.setup.log 2>&1 || echo "setup: some package lists could not be refreshed" >&2
    apt-get install "${options[@]}" "$@" </dev/null >>.setup.log 2>&1 && { rm -f .setup.log; return 0; }
    tail -n 20 .setup.log >&2
    rm -f .setup.log
    echo "setup: apt-get could not install: $*" >&2
    exit 1
}

# --- Python -----------------------------------------------------------------------------------------------------
# A Python that can make a virtual environment. As root it must also be within reach of the unprivileged user that
# the daemon becomes, which an interpreter below /root is not.
usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || return 1
    [ "$(id -u)" = 0 ] || return 0
    local real
    real=$("$1" -c 'import os, sys; print(os.path.realpath(sys.executable))')
    # Through a shell: setpriv itself still holds its capabilities when it calls exec.
    setpriv --reuid 65534 --regid 65534 --clear-groups sh -c '"$0" -c "import ctypes, json"' "$real" 2>/dev/null
}

find_python() {
    local name
    for name in python3 /usr/bin/python3 python3.14 python3.13 python3.12 python3.11; do
        name=$(command -v "$name") && usable "$name" && { echo "$name"; return 0; }
    done
    return 1
}

make_venv() {
    local python
    if ! python=$(find_python); then
        install python3 python3-venv
        python=$(find_python) || { echo "setup: no Python 3.11 or newer with venv found" >&2; exit 1; }
    fi
    if ! .venv/bin/python -c pass 2>/dev/null; then
        echo "setup: making .venv with $python"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    echo "setup: installing Python packages"
    # --only-binary: nothing here may need a compiler; our own package is pure Python and exempt.
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore .venv/bin/python -m pip install --quiet \
        --only-binary :all: --no-input -e "$1" </dev/null
}

# --- Prometheus 3 -----------------------------------------------------------------------------------------------
# Not every Debian has it yet: where it is older, the program of `testing` is put beside our Python, not installed.
# Only one test wants it, so it is no failure when it cannot be had.
fetch_prometheus_3() {
    local target=.venv/bin/prometheus3 site folder
    [ ! -x $target ] && ! prometheus --version 2>&1 | grep -q 'prometheus, version [3-9]' || return 0
    site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | head -n 1)
    folder=$(mktemp -d)
    mkdir -p "$folder/lists/partial" "$folder/archives/partial"
    echo "deb $site testing main" >"$folder/sources.list"
    local options=(
        -q -o Dir::Etc::SourceList="$folder/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State::Lists="$folder/lists"
        -o Dir::Cache="$folder" -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false -o Acquire::http::Timeout=30
    )
    if apt-get update "${options[@]}" </dev/null && (cd "$folder" && apt-get download "${options[@]}" prometheus) &&
        dpkg-deb --fsys-tarfile "$folder"/prometheus_*.deb | tar -xO ./usr/bin/prometheus >"$folder/prometheus" &&
        chmod 755 "$folder/prometheus" && "$folder/prometheus" --version; then
        mv "$folder/prometheus" $target
    fi >"$folder/log" 2>&1
    [ -x $target ] || echo "setup: no Prometheus 3 to be had, its test will be skipped: $(tail -n 1 "$folder/log")" >&2
    rm -rf "$folder"
}

# --- main -------------------------------------------------------------------------------------------------------
mapfile -t wanted < <(
    missing "${demo_packages[@]}"
    [ "$needs" = demo ] || missing "${test_packages[@]}"
)
install "${wanted[@]}"

extra=.
[ "$needs" = demo ] || extra='.[dev]'
hash=$(sha256sum pyproject.toml .ci/setup.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" != "$hash" ] || [ ! -x .venv/bin/rezolus ]; then
    make_venv "$extra"
    [ "$needs" = demo ] || fetch_prometheus_3
    echo "$hash" >"$stamp"
    [ "$needs" = demo ] || echo "$hash" >.venv/.setup-demo
    echo "setup: done"
fi
