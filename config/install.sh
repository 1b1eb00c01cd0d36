#!/usr/bin/env bash
# Installs this checkout as services of systemd, or removes them again.
# usage: config/install.sh install|files|uninstall
#   install    the program with its libraries, and what `files` does; then says how to start it
#   files      configuration, units, the user and its folders
#   uninstall  all of it but configuration, recordings and the user
# environment:
#   PREFIX     where the program goes (/opt/rezolus)
#   DESTDIR    stands before every path, for making packages: no user is made and nothing running is touched
#   PYTHON     the interpreter (python3); as root one that other users can run, not below /root
set -euo pipefail
umask 022

source=$(cd "$(dirname "$0")/.." && pwd)
prefix=${PREFIX:-/opt/rezolus}
root=${DESTDIR:-}
python=${PYTHON:-python3}
units=(rezolus rezolus-exporter rezolus-hindsight)
etc=$root/etc/rezolus
system=$root/usr/lib/systemd/system
sysusers=$root/usr/lib/sysusers.d/rezolus.conf
tmpfiles=$root/usr/lib/tmpfiles.d/rezolus.conf
link=$root/usr/local/bin/rezolus

say() { echo "install: $*"; }
fail() { echo "install: $*" >&2; exit 1; }

[ "${prefix#/}" != "$prefix" ] || fail "PREFIX must be absolute, found $prefix"
[ -n "$root" ] || [ "$(id -u)" = 0 ] || fail "run it as root, or set DESTDIR to install into a folder"

# Whether systemd runs here and is ours to tell.
systemd_runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

install_program() {
    "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python is no Python 3.11 or newer with venv (Debian: python3-venv); set PYTHON to one"
    [ -n "$root" ] || [ -e /usr/lib/python3/dist-packages/bcc/__init__.py ] ||
        fail "BCC is missing: apt-get install python3-bpfcc"
    local target=$root$prefix
    [ ! -e "$target" ] || [ -e "$target/pyvenv.cfg" ] || fail "$target exists and is no installation of ours"
    # Made beside what is there and exchanged at the end: whatever fails until then leaves the old one as it is.
    local new=$target.new old=$target.old
    rm -rf "$new" "$old"
    # shellcheck disable=SC2064  # as it is now: at the exit the variable is gone
    trap "rm -rf '$new'" EXIT
    "$python" -m venv "$new"
    # --only-binary: nothing here may need a compiler; our own package is pure Python and exempt.
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore "$new/bin/python" -m pip install --quiet \
        --only-binary :all: --no-input "$source" </dev/null || fail "nothing was changed: pip could not install it"
    # By way of env, for setpriv itself still has the rights of root.
    [ -n "$root" ] || setpriv --reuid=65534 --regid=65534 --clear-groups env "$new/bin/python" -c '' 2>/dev/null ||
        fail "other users cannot run $(readlink -f "$new/bin/python"): set PYTHON to an interpreter that they can run"
    find "$new/bin" -type f -exec sed -i "s|$new|$prefix|g" {} +
    [ ! -e "$target" ] || mv "$target" "$old"
    mv "$new" "$target"
    rm -rf "$old"
    mkdir -p "$(dirname "$link")"
    ln -sfn "$prefix/bin/rezolus" "$link"
}

# A file of the administrator's is left alone; the new one is put beside it when they differ.
install_configuration() {
    local name target
    mkdir -p "$etc"
    for name in rezolus agent exporter hindsight; do
        target=$etc/$name.toml
        if [ ! -e "$target" ]; then
            install -m 644 "$source/config/$name.toml" "$target"
        elif ! cmp -s "$source/config/$name.toml" "$target"; then
            install -m 644 "$source/config/$name.toml" "$target.new"
            say "kept $target, the new one is $target.new"
        fi
    done
}

install_files() {
    local unit
    install_configuration
    mkdir -p "$system" "$(dirname "$sysusers")" "$(dirname "$tmpfiles")"
    for unit in "${units[@]}"; do
        sed "s|/opt/rezolus/|$prefix/|" "$source/config/systemd/$unit.service" >"$system/$unit.service"
    done
    install -m 644 "$source/config/systemd/rezolus.sysusers" "$sysusers"
    install -m 644 "$source/config/systemd/rezolus.tmpfiles" "$tmpfiles"
    [ -z "$root" ] || return 0
    if command -v systemd-sysusers >/dev/null; then
        systemd-sysusers "$sysusers"
        systemd-tmpfiles --create "$tmpfiles"
    else
        id rezolus >/dev/null 2>&1 || useradd --system --shell /usr/sbin/nologin --home-dir /var/lib/rezolus rezolus
        install -d -o rezolus -g rezolus /var/lib/rezolus /run/rezolus
    fi
    ! systemd_runs || systemctl daemon-reload
}

uninstall() {
    local unit
    for unit in "${units[@]}"; do
        [ ! -e "$system/$unit.service" ] || ! systemd_runs || systemctl disable --now "$unit"
        rm -f "$system/$unit.service"
    done
    rm -f "$sysusers" "$tmpfiles"
    [ "$(readlink "$link" 2>/dev/null)" != "$prefix/bin/rezolus" ] || rm -f "$link"
    local target=$root$prefix
    [ ! -e "$target/pyvenv.cfg" ] || rm -rf "$target"
    ! systemd_runs || systemctl daemon-reload
    say "removed; left are $root/etc/rezolus, $root/var/lib/rezolus and the user rezolus"
}

case ${1:-} in
install)
    install_program
    install_files
    say "installed into $root$prefix; check with: rezolus config check /etc/rezolus/rezolus.toml"
    say "start with: systemctl enable --now rezolus"
    ;;
files) install_files ;;
uninstall) uninstall ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
