#!/usr/bin/env bash
# Installs edge-listen as a service, upgrades it, or takes it away: see docs/raspberry-pi.md. Run it as often as you like.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")"

PROGRAM=/opt/edge-listen           # a link to the release in use, switched at once
RELEASES=/opt/edge-listen.releases # the one in use and the one before
CONFIG=/etc/edge-listen
UNITS=/etc/systemd/system
RULES=/etc/udev/rules.d/70-edge-listen-microphone.rules
JOURNAL=/etc/systemd/journald.conf.d/50-edge-listen.conf
COMMANDS=/usr/local/bin
STARTED=("$@")

usage() {
    cat <<'TEXT'
sudo ./install.sh [--log-to-ram]      install or upgrade; with --log-to-ram the system's journal is kept in memory
sudo ./install.sh --rollback          back to the release before
sudo ./install.sh --uninstall         take the program away; configuration and state stay
sudo ./install.sh --uninstall --purge these as well
From a bundle (make bundle) nothing is fetched from the network.
TEXT
}

say() { echo "edge-listen: $*"; }
fail() { echo "error: $1 ($2)" >&2; exit 1; }

main() {
    local action=install purge=no log_to_ram=no
    while [ $# -gt 0 ]; do
        case $1 in
            --uninstall) action=uninstall ;;
            --rollback) action=rollback ;;
            --purge) purge=yes ;;
            --log-to-ram) log_to_ram=yes ;;
            -h | --help) usage; return ;;
            *) fail "unknown option $1" "see ./install.sh --help" ;;
        esac
        shift
    done
    if [ "$purge" = yes ] && [ "$action" != uninstall ]; then
        fail "--purge belongs to --uninstall" "./install.sh --uninstall --purge"
    fi
    [ "$(id -u)" = 0 ] || fail "not root" "sudo ./install.sh ${STARTED[*]}"
    case $action in
        install) install_all "$log_to_ram" ;;
        rollback) roll_back ;;
        uninstall) uninstall "$purge" ;;
    esac
}

# --- what this system must be -------------------------------------------------------------------------------------------
bundled() { [ -f SHA256SUMS ]; }

require_system() {
    [ "$(getconf LONG_BIT)" = 64 ] \
        || fail "this system is 32-bit, for which onnxruntime has no package" "install the 64-bit Raspberry Pi OS"
    command -v python3 >/dev/null || fail "there is no python3" "apt-get install python3"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "needs Python 3.11 or newer, this is $(python3 -V)" "Raspberry Pi OS bookworm or newer has it"
    [ ! -e "$PROGRAM" ] || [ -L "$PROGRAM" ] || fail "$PROGRAM is not of install.sh's making" "move it away"
    if bundled; then require_bundle; fi
}

require_bundle() { # whole, and made for this machine and its Python
    local machine python
    machine=$(uname -m)
    [ "$(cat ARCH)" = "$machine" ] || fail "the bundle is for $(cat ARCH), this is $machine" "make bundle ARCH=$machine"
    python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    grep -qxF "$python" PYTHONS \
        || fail "the bundle is for Python $(paste -sd, PYTHONS), this is $python" "with a network, install.sh of a checkout takes any from 3.11 on"
    sha256sum --quiet --check SHA256SUMS >/dev/null 2>&1 || fail "the bundle is damaged" "copy and unpack it again"
}

# --- Debian's packages: PortAudio, and Python's venv where pip does not come along ------------------------------------------
has_portaudio() { ldconfig -p | grep -q 'libportaudio\.so\.2'; }
installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

install_system_packages() {
    local needed=()
    has_portaudio || needed+=(libportaudio2)
    bundled || python3 -c 'import ensurepip' 2>/dev/null || needed+=(python3-venv)
    [ ${#needed[@]} -gt 0 ] || return 0
    if bundled && install_debs; then return; fi
    say "installing ${needed[*]} from the network"
    apt-get update -qq >/dev/null 2>&1 || true # somebody else's repository may be away: whether it matters, install shows
    if ! DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}" >/dev/null 2>&1; then
        fail "missing Debian packages: ${needed[*]}" "with a network: apt-get install ${needed[*]}; or put their .deb files, and those that they depend on, into $PWD/$(debs)"
    fi
}

debs() { # the folder of this release's .deb files; a subshell, for os-release sets many names
    # shellcheck source=/dev/null
    (. /etc/os-release && echo "debs/${VERSION_CODENAME:-unknown}")
}

install_debs() { # those of the bundle that are not there yet; what the system has is left alone
    local missing=() deb
    for deb in "$(debs)"/*.deb; do
        [ -f "$deb" ] || return 1
        installed "$(dpkg-deb -f "$deb" Package)" || missing+=("$deb")
    done
    say "installing from the bundle: ${missing[*]##*/}"
    dpkg -i "${missing[@]}" >/dev/null
    has_portaudio
}

# --- the program --------------------------------------------------------------------------------------------------------
EXTRAS=http,metrics,mqtt,update # one that this version does not have is a warning of pip's

new_release() { # in a subshell: makes a release beside the one in use, proves it, and prints its folder
    mkdir -p "$RELEASES"
    made=$(mktemp -d "$RELEASES/$(date -u +%Y%m%d-%H%M%S).XXXX") # not local: the trap runs when the locals are gone
    trap 'rm -rf "$made"' EXIT
    chmod 755 "$made"
    fill "$made" >&2 || fail "the new release cannot be made" "the one in use was kept; what pip says is above"
    prove "$made" >&2
    install -D -m 644 -t "$made/units" edge-*.service edge-*.timer # of these, only edge-listen.service is enabled
    if bundled; then cp SHA256SUMS "$made/bundle"; else touch "$made/bundle"; fi # last: it is whole
    trap - EXIT
    echo "$made"
}

fill() { # fill FOLDER: the program and its libraries; pip compiles them, which the service may not
    local pip_options=(--quiet --no-cache-dir --disable-pip-version-check)
    if bundled; then
        local pip=(wheels/pip-*.whl)
        python3 -m venv --without-pip "$1"
        # pip runs from its wheel: python3-venv is not needed.
        PIP_CONFIG_FILE=/dev/null "$1/bin/python" "${pip[0]}/pip" install "${pip_options[@]}" --no-index --find-links wheels \
            "edge-listen[$(cat EXTRAS)]"
    else
        local from=edge-listen
        if [ -f ../../pyproject.toml ]; then from=$(cd ../.. && pwd); fi
        python3 -m venv "$1"
        "$1/bin/python" -m pip install "${pip_options[@]}" "${from}[$EXTRAS]"
    fi
}

prove() { # prove FOLDER: the model gives the numbers that are written in it, PortAudio and the readers of sound load
    "$1/bin/edge-inspect" >/dev/null || fail "the new release does not prove its model" "the one in use was kept"
    "$1/bin/python" -c 'import sounddevice, soundfile, soxr' || fail "a library of the new release does not load" "the one in use was kept"
}

switch_to() { # switch_to FOLDER: at once, so that a power cut leaves the one or the other; then to its units
    ln -sfn "$1" "$PROGRAM.new"
    mv -T "$PROGRAM.new" "$PROGRAM"
    local unit
    for unit in "$1"/units/*; do # a release of an earlier install.sh has none: the units stay as they are
        if [ -f "$unit" ]; then put "$unit" "$UNITS/${unit##*/}"; fi
    done
}

forget_releases() { # forget_releases CURRENT BEFORE: all others go
    local release
    for release in "$RELEASES"/*/; do
        case ${release%/} in "$1" | "$2") ;; *) rm -rf "$release" ;; esac
    done
}

# --- the system around it -----------------------------------------------------------------------------------------------
put() { # put FILE PLACE: if it differs, to a temporary name first
    cmp -s "$1" "$2" || { install -D -m 644 "$1" "$2.new" && mv "$2.new" "$2"; }
}

put_once() { [ -e "$2" ] || put "$1" "$2"; } # the user's own from then on

install_files() {
    put_once edge-listen.toml "$CONFIG/edge-listen.toml"
    put_once 70-edge-listen-microphone.rules "$RULES"
    if [ "$1" = yes ]; then put journald-volatile.conf "$JOURNAL"; fi
    local command
    mkdir -p "$COMMANDS"
    for command in "$PROGRAM"/bin/edge-*; do ln -sfn "$command" "$COMMANDS/${command##*/}"; done
}

systemd_runs() { [ -d /run/systemd/system ]; }

start() { # the unit tells systemd when it listens: restart fails where it does not get so far
    systemctl --quiet enable edge-listen.service
    if ! systemd_runs; then
        say "systemd does not run here: the service starts at the next boot"
        return
    fi
    systemctl daemon-reload
    udevadm control --reload
    if [ "$1" = yes ]; then systemctl restart systemd-journald; fi
    systemctl restart edge-listen.service
}

install_all() { # install_all LOG_TO_RAM
    require_system
    install_system_packages
    local before release
    before=$(readlink "$PROGRAM" || true)
    if bundled && cmp -s SHA256SUMS "$PROGRAM/bundle" && (prove "$PROGRAM") 2>/dev/null; then
        release=$before # this bundle's already
    else
        release=$(new_release)
    fi
    switch_to "$release"
    install_files "$1"
    if ! start "$1"; then
        case $before in "" | "$release") fail "the service does not start" "journalctl -u edge-listen" ;; esac
        switch_to "$before"
        rm -rf "$release"
        start no || fail "neither the new release nor the one before starts; the one before is in $PROGRAM again" "journalctl -u edge-listen"
        fail "the new release does not start; the one before is in use again" "journalctl -u edge-listen"
    fi
    [ "$release" = "$before" ] || forget_releases "$release" "$before"
    say "$("$PROGRAM/bin/edge-listen" --version) is in $PROGRAM, its settings in $CONFIG/edge-listen.toml"
}

roll_back() {
    local now release before=
    now=$(readlink "$PROGRAM" || true)
    for release in "$RELEASES"/*/; do
        if [ -f "$release/bundle" ] && [ "${release%/}" != "$now" ]; then before=${release%/}; fi
    done
    [ -n "$before" ] || fail "there is no release before" "install one"
    switch_to "$before"
    start no || fail "the release before does not start" "journalctl -u edge-listen"
    say "$("$PROGRAM/bin/edge-listen" --version) of before is in use"
}

uninstall() { # uninstall PURGE
    local unit link
    for unit in edge-update.timer edge-update.service edge-listen.service; do
        if systemd_runs; then systemctl --quiet stop "$unit" 2>/dev/null || true; fi
        systemctl --quiet disable "$unit" 2>/dev/null || true
        rm -f "$UNITS/$unit"
    done
    for link in "$COMMANDS"/edge-*; do
        case $(readlink "$link" || true) in "$PROGRAM"/*) rm "$link" ;; esac
    done
    rm -rf "$JOURNAL" "$PROGRAM" "$RELEASES"
    if [ "$1" = yes ]; then
        rm -rf "$CONFIG" "$RULES" /var/{lib,cache}/{,private/}edge-listen
        say "removed, with configuration and state; Debian's libportaudio2 was left"
    else
        say "removed; $CONFIG, $RULES and /var/lib/edge-listen were kept (--purge removes them)"
    fi
    if systemd_runs; then systemctl daemon-reload; udevadm control --reload; fi
}

main "$@"
