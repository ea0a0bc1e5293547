#!/usr/bin/env bash
# A Raspberry Pi without one: a Debian system for arm64 under emulation, in which the bundle is installed, upgraded, broken and removed,
# by the commands of docs/raspberry-pi.md. A line for each thing checked, PASS or FAIL; the exit code is 1 where one failed.
# Needs root and .venv (make), and of Debian: binfmt-support debian-archive-keyring qemu-user-static.
#   deployment/raspberry_pi/check.sh           some of the test suite there
#   deployment/raspberry_pi/check.sh --alone   of what a device can run, all that starts no other program
#   deployment/raspberry_pi/check.sh --whole   all of it that a device can run: hours, for emulation is slow
#   deployment/raspberry_pi/check.sh FILE…     these test files
#   SUITE=trixie …                             Debian 13, with Python 3.13, instead of 12
#   QEMU_CPU=cortex-a53 …                      a Pi 3's processor instead of a Pi 4's
#   KEEP=folder …                              make the system once, and keep it there for the next time
# shellcheck disable=SC2016,SC2317 # what stands in '' is for the shell there; functions are called by check
set -euo pipefail
cd "$(dirname "$0")/../.."

SUITE=${SUITE:-bookworm}
declare -A PYTHONS=([bookworm]=3.11 [trixie]=3.13)
SOME=(tests/test_config.py tests/test_devices.py tests/test_files.py tests/test_ring.py)
HOME_THERE=/home/pi
# A Pi 4's processor. What qemu takes unasked has SVE, which no Pi has: qemu 7.2 is eight times slower with it, and numpy 2.5 wrong.
export QEMU_CPU=${QEMU_CPU:-cortex-a72}
declare -A PARTS=([cortex-a53]=0xd03 [cortex-a72]=0xd08 [cortex-a76]=0xd0b) # as /proc/cpuinfo names them

case ${1:-} in
"" | --alone | --whole) ;;
*)
    for file in "$@"; do
        if ! [[ -f $file && $file == tests/* ]]; then
            echo "error: $file is no test file (--alone, --whole, tests/test_….py)" >&2
            exit 2
        fi
    done
    ;;
esac

skip() { echo "SKIP deployment/raspberry_pi: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
for tool in apt-get dpkg update-binfmts unshare; do command -v "$tool" >/dev/null || skip "no $tool"; done
[ -f /usr/share/keyrings/debian-archive-keyring.gpg ] || skip "no debian-archive-keyring"
mountpoint -q /proc/sys/fs/binfmt_misc || mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc 2>/dev/null || skip "no binfmt_misc"
[ -e /proc/sys/fs/binfmt_misc/qemu-aarch64 ] || update-binfmts --enable qemu-aarch64 2>/dev/null || skip "no qemu-user-static"

failed=0
check() { # check DESCRIPTION COMMAND…: one line, the last words of a failure, and the rest goes on
    local since=$SECONDS
    if "${@:2}" >"$scratch/log" 2>&1 </dev/null; then
        echo "PASS $1 ($((SECONDS - since)) s)"
    else
        echo "FAIL $1 ($((SECONDS - since)) s)"
        tail -15 "$scratch/log" | sed 's/^/     /'
        failed=1
    fi
}
refused() { # refused WORDS COMMAND…: the command fails, in one line that says so
    if "${@:2}" >"$scratch/said" 2>&1; then return 1; fi
    cat "$scratch/said"
    grep -q "^error: .*$1" "$scratch/said"
}

scratch=$(mktemp -d /tmp/edge-pi.XXXXXX)
root=$scratch/root
cleanup() {
    umount "$root/proc/cpuinfo" "$root/proc" "$root/dev/pts" "$root/dev/shm" 2>/dev/null || true
    for place in proc dev/pts dev/shm; do if mountpoint -q "$root/$place"; then echo "left mounted: $root/$place" >&2 && return; fi; done
    rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT

# there COMMAND: run by a shell in the emulated system, at home, without a network but its own
LOOPBACK='import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 1))' # SIOCSIFFLAGS, IFF_UP
there() {
    unshare --net sh -c "python3 -c '$LOOPBACK'; exec \"\$@\"" sh chroot "$root" env -i \
        HOME=$HOME_THERE LC_ALL=C.UTF-8 OMP_NUM_THREADS=1 QEMU_CPU="$QEMU_CPU" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin bash -c "cd ~ && $1"
}

# --- the system, and the bundle -----------------------------------------------------------------------------------------
archive=${KEEP:-$scratch}/arm64-$SUITE.tar
mkdir -p "$(dirname "$archive")" "$root"
if [ -f "$archive" ]; then
    tar -C "$root" -xf "$archive"
else
    check "a Debian $SUITE for arm64 is made" bash deployment/raspberry_pi/arm64_root.sh "$root" "$SUITE"
    [ $failed = 0 ] || exit 1
    if [ -n "${KEEP:-}" ]; then tar -C "$root" --one-file-system -cf "$archive" .; fi
fi
mount -t proc proc "$root/proc"
# What onnxruntime asks the processor's name of: an emulated system would find the host's there.
mkdir -p "$root/sys/devices/system/cpu"
echo 0-1 | tee "$root/sys/devices/system/cpu/possible" >"$root/sys/devices/system/cpu/present"
for i in 0 1; do
    printf 'processor\t: %s\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\nCPU architecture: 8\n' $i
    printf 'CPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 3\n\n' "${PARTS[$QEMU_CPU]-0xd08}"
done >"$root/etc/cpuinfo"
mount --bind "$root/etc/cpuinfo" "$root/proc/cpuinfo" || skip "no file can be mounted on another"
for device in null:3 zero:5 full:7 random:8 urandom:9; do # or the first who writes to /dev/null makes a file of it
    rm -f "$root/dev/${device%:*}"
    mknod -m 666 "$root/dev/${device%:*}" c 1 "${device#*:}" || skip "no devices can be made"
done
mkdir -p "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts" || skip "no terminals can be made"
ln -sf pts/ptmx "$root/dev/ptmx"
mount -t tmpfs -o size=1g tmpfs "$root/dev/shm" || skip "no shared memory can be mounted"
echo "127.0.0.1 localhost $(hostname)" >"$root/etc/hosts"
echo 'Defaults env_keep += "QEMU_CPU"' >"$root/etc/sudoers.d/qemu" # or sudo leaves it out
rm -f dist/edge-listen-*-aarch64.tar.gz
here() { python3 tests/doc_commands.py docs/raspberry-pi.md here; }
pi() { python3 tests/doc_commands.py docs/raspberry-pi.md pi; }
while read -r command; do check "here: $command" bash -c "$command"; done < <(here)
[ $failed = 0 ] || exit 1
cp dist/edge-listen-*-aarch64.tar.gz "$root$HOME_THERE/"
bundle='edge-listen-*-aarch64' # a pattern, for the shell there

# --- what a person types, but for the removal at the end ------------------------------------------------------------------
folder="~"
type_there() { # each line where the one before has left us
    if [[ $1 == cd\ * ]]; then folder="$folder && $1"; fi
    check "there: $1" there "cd $folder && ${1/#cd */true}"
}
while read -r command; do
    case $command in *--uninstall*) ;; *) type_there "$command" ;; esac
done < <(pi)
[ $failed = 0 ] || { echo "FAIL the rest was not tried"; exit 1; }

# --- the same sounds have the same names ------------------------------------------------------------------------------------
cp examples/demo.ogg "$root$HOME_THERE/"
named() { # of records, what was heard and when; not how long it took
    python3 -c 'import json, sys
for line in sys.stdin:
    r = json.loads(line)
    if r["type"] in ("window", "event"):
        print(r["type"], r.get("onset"), r.get("label"), [name for name, _ in r.get("top", [])[:1]])'
}
same_events() {
    .venv/bin/python -m edge.cli.listen --input examples/demo.ogg --output jsonl | named >"$scratch/here"
    there "edge-listen --input demo.ogg --output jsonl" | named >"$scratch/there"
    [ "$(grep -c ^event "$scratch/here")" -gt 5 ] && diff "$scratch/here" "$scratch/there"
}
same_classes() {
    diff <(.venv/bin/python -m edge.cli.classify examples/demo.ogg | sed 's/.*demo.ogg *//') <(there "edge-classify demo.ogg" | sed 's/.*demo.ogg *//')
}
check "edge-listen hears in the demo what it hears here" same_events
check "edge-classify says of the demo what it says here" same_classes
echo "     $(grep -c ^event "$scratch/here") events and $(grep -c ^window "$scratch/here") windows"
check "PortAudio was not there, and came from the bundle" there "dpkg -s libportaudio2 && ! dpkg -s python3-venv"
check "the service would start at the next boot" there "test -L /etc/systemd/system/multi-user.target.wants/edge-listen.service"
check "the unit is valid there" there 'test -z "$(systemd-analyze verify /etc/systemd/system/edge-listen.service 2>&1 | grep edge-listen)"'
if there "udevadm verify --help" >/dev/null 2>&1; then # from systemd 254 on
    check "udev takes the rules, once they are filled in" there "sed 's/^#SUBSYSTEM/SUBSYSTEM/' /etc/udev/rules.d/70-edge-listen-microphone.rules >70-edge.rules && udevadm verify 70-edge.rules"
fi
check "the settings of the service are read" there "edge-listen --config /etc/edge-listen/edge-listen.toml --input demo.ogg --output text"

# --- again, broken, refused ---------------------------------------------------------------------------------------------------
release() { readlink "$root/opt/edge-listen"; }
unchanged() { # unchanged COMMAND…: the release in use stays in use, and works
    local before
    before=$(release)
    "$@" && [ "$(release)" = "$before" ] && there "edge-listen --version"
}
echo "threshold = 0.9 # mine" >"$root/etc/edge-listen/edge-listen.toml"
check "the same bundle again changes nothing" unchanged there "cd $bundle && sudo ./install.sh"
check "settings are not overwritten" grep -q mine "$root/etc/edge-listen/edge-listen.toml"
there "cp -r $bundle broken && cd broken && rm wheels/onnxruntime-* && grep -v onnxruntime SHA256SUMS >sums && mv sums SHA256SUMS"
check "an upgrade that breaks half-way leaves the old release" \
    unchanged refused "the new release cannot be made" there "cd broken && sudo ./install.sh"
check "and nothing of its own" test "$(find "$root/opt/edge-listen.releases" -mindepth 1 -maxdepth 1 | wc -l)" = 1
there "echo more >>broken/edge-listen.toml"
check "a damaged bundle is refused" unchanged refused "the bundle is damaged" there "cd broken && sudo ./install.sh"
there "cp -r $bundle newer && cd newer && echo '# newer' >>edge-listen.service \
    && sed -i \"s#.*  edge-listen.service#\$(sha256sum edge-listen.service)#\" SHA256SUMS"
first=$(release)
check "a newer bundle is installed beside it" there "cd newer && sudo ./install.sh"
check "and is in use" test "$(release)" != "$first"
check "with its unit" grep -q newer "$root/etc/systemd/system/edge-listen.service"
check "the one before comes back" there "cd newer && sudo ./install.sh --rollback"
check "and is in use again" test "$(release)" = "$first"
check "with its own unit" there "! grep newer /etc/systemd/system/edge-listen.service"

# --- the suite --------------------------------------------------------------------------------------------------------------------
suite() { # suite FILE…: with the libraries for testing beside the installed program
    local glibc platforms=()
    for glibc in _2_28 _2_27 _2_26 _2_17 2014; do platforms+=(--platform "manylinux${glibc}_aarch64"); done
    mkdir -p "$root/opt/tests" "$root/src"
    # shellcheck disable=SC2046
    .venv/bin/python -m pip install -q --target "$root/opt/tests" --only-binary=:all: --implementation cp --no-compile \
        --python-version "${PYTHONS[$SUITE]}" "${platforms[@]}" $(python3 -c 'from tests.arm64 import LIBRARIES; print(*LIBRARIES)')
    rm -rf "$root"/opt/tests/{numpy,numpy-*,numpy.libs} # the installed ones are tested
    git ls-files -z ':!edge' | tar --null -T - -cf - | tar -C "$root/src" -xf -
    local edge
    edge=$(chroot "$root" /opt/edge-listen/bin/python -c 'import edge; print(edge.__path__[0])') || return 1
    ln -sfn "$edge" "$root/src/edge"
    there "echo /opt/tests >$(dirname "$edge")/tests.pth" # not PYTHONPATH, which some tests set
    there "cd /src && PYTHONDONTWRITEBYTECODE=1 EDGE_LISTEN_PATIENCE=10 /opt/edge-listen/bin/python -m pytest -q -rf --tb=short -p no:cacheprovider -m 'not slow and not timed' $*"
}
files=("${SOME[@]}")
case ${1:-} in
--alone) mapfile -t files < <(python3 -m tests.arm64 --alone) ;;
--whole)
    mapfile -t files < <(python3 -m tests.arm64)
    echo "     not run there:"
    python3 -m tests.arm64 --others | sed 's/^/     /'
    ;;
tests/*) files=("$@") ;;
esac
check "tests pass there: ${files[*]#tests/}" suite "${files[@]}"
tail -1 "$scratch/log" | sed 's/^/     /'

# --- and away ------------------------------------------------------------------------------------------------------------------------
while read -r command; do
    case $command in *--uninstall*) check "there: $command" there "cd $folder && $command" ;; esac
    case $command in
        *--purge) check "nothing is left" there "! ls -d /opt/edge* /etc/edge* /etc/systemd/system/edge* /usr/local/bin/edge* /etc/udev/rules.d/70-edge*" ;;
        *--uninstall) check "settings are left" grep -q mine "$root/etc/edge-listen/edge-listen.toml" ;;
    esac
done < <(pi)
exit $failed
