#!/usr/bin/env bash
# Builds the image, and runs it with a virtual microphone and without any: root read-only, no capabilities, not root.
# A line for each thing checked, PASS or FAIL; the exit code is 1 where one failed. Needs root, buildah, pulseaudio and, unless
# BASE names an image with Debian's package manager, debootstrap. It leaves nothing behind.
#   deployment/container/check.sh            build and check
#   BASE=debian:bookworm-slim …/check.sh     on another base than one made by debootstrap
#   KEEP=folder …/check.sh                   keep the base there for the next time
# shellcheck disable=SC2317  # functions are reached through check
set -euo pipefail
cd "$(dirname "$0")/../.."

skip() { echo "SKIP deployment/container: $1"; exit 0; }
[ "$(id -u)" = 0 ] || skip "not root"
for tool in buildah pulseaudio pactl paplay setpriv unshare; do command -v "$tool" >/dev/null || skip "no $tool"; done
[ -n "${BASE:-}" ] || command -v debootstrap >/dev/null || skip "no debootstrap, and no BASE"

failed=0
check() { # check DESCRIPTION COMMAND…: one line, and the rest goes on
    if "${@:2}"; then echo "PASS $1"; else echo "FAIL $1"; failed=1; fi
}

scratch=$(mktemp -d /tmp/edge-container.XXXXXX)
pids=()
cleanup() {
    for pid in ${pids[@]+"${pids[@]}"}; do kill -9 "$pid" 2>/dev/null || true; done
    store umount --all >/dev/null 2>&1 || true
    store rm --all >/dev/null 2>&1 || true
    rm -rf "$scratch"
}
trap cleanup EXIT
trap "exit 1" INT TERM
store() { buildah --storage-driver vfs --root "$scratch/images" --runroot "$scratch/run" "$@"; }

# --- the image ---------------------------------------------------------------------------------------------------------
if [ -z "${BASE:-}" ]; then
    archive=${KEEP:-$scratch}/debian-base.tar
    if [ ! -f "$archive" ]; then
        debootstrap --variant=minbase bookworm "$scratch/base" http://deb.debian.org/debian >"$scratch/debootstrap.log" 2>&1 \
            || { tail -5 "$scratch/debootstrap.log"; echo "FAIL a base by debootstrap"; exit 1; }
        # What a slim image leaves out as well.
        rm -rf "$scratch"/base/var/{cache/apt,lib/apt/lists}/* "$scratch"/base/usr/share/{doc,locale,man}/*
        mkdir -p "$(dirname "$archive")"
        tar -C "$scratch/base" -cf "$archive" .
        rm -rf "$scratch/base"
    fi
    container=$(store from scratch)
    store add -q "$container" "$archive" / >/dev/null
    store commit -q --rm "$container" localhost/base >/dev/null
    BASE=localhost/base
fi

build=(--isolation chroot --format docker --ignorefile deployment/container/Dockerfile.dockerignore --build-arg "BASE=$BASE")
# A network whose certificates are its own.
[ -z "${PIP_CERT:-}" ] || build+=(--volume "$PIP_CERT:/run/pip.crt:ro" --build-arg PIP_CERT=/run/pip.crt)
if ! store bud "${build[@]}" -t localhost/edge-listen -f deployment/container/Dockerfile . >"$scratch/build.log" 2>&1; then
    tail -20 "$scratch/build.log"
    echo "FAIL the image is built"
    exit 1
fi
echo "PASS the image is built"
container=$(store from localhost/edge-listen)
root=$(store mount "$container")
echo "     size: $(du -sm "$root" | cut -f1) MB, of which edge-listen and its libraries $(du -sm "$root/opt/edge-listen" | cut -f1) MB"

config() { store inspect --type image --format "{{$1}}" localhost/edge-listen; }  # a field of what the image says of itself
without() { for name in "$@"; do [ -z "$(find "$root" -xdev -path '*/bin/*' -name "$name" -print -quit)" ] || return 1; done; }
check "no compiler and no pip in it" without gcc 'gcc-*' cc g++ ld as make pip 'pip3*'
check "its user is not root" [ "$(config .OCIv1.Config.User)" = 10001 ]
check "it is stopped by SIGTERM" [ "$(config .OCIv1.Config.StopSignal)" = SIGTERM ]
check "it has a health check" [ "$(config .Docker.Config.Healthcheck.Test)" = "[CMD healthy]" ]
check "it is labelled" [ "$(config '(index .OCIv1.Config.Labels "org.opencontainers.image.licenses")')" = Apache-2.0 ]
suid() { [ -z "$(find "$root/opt/edge-listen" -xdev -perm /6000 -print -quit)" ]; }
check "nothing of ours is set-user-id" suid

# --- runs, as compose.yaml asks for them: root read-only, no capabilities, a user of its own ----------------------------------
mapfile -t env < <(config 'range .OCIv1.Config.Env}}{{.}}{{"\n"}}{{end')
port=$((20000 + RANDOM % 20000))
chmod 711 "$scratch"
mkdir "$scratch"/{state,cache,xdg,home}
chown 10001 "$scratch"/{state,cache}

# shellcheck disable=SC2016
inside='
    set -euo pipefail
    root=$1 scratch=$2; shift 2
    mount --bind "$root" "$root"
    mount -o remount,bind,ro "$root"
    mount -t proc proc "$root/proc"
    for folder in dev run tmp; do mount -t tmpfs tmpfs "$root/$folder"; done
    for node in null zero urandom random; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
    mkdir "$root/run/pulse"
    mount --bind "$scratch/xdg" "$root/run/pulse"
    mount --bind "$scratch/state" "$root/var/lib/edge-listen"
    mount --bind "$scratch/cache" "$root/var/cache/edge-listen"
    exec chroot "$root" setpriv --reuid 10001 --regid 10001 --groups 29 --inh-caps=-all --bounding-set=-all --no-new-privs \
        env -i -C /var/lib/edge-listen "$@"'
in_image=(unshare --mount --pid --fork --kill-child bash -c "$inside" inside "$root" "$scratch" "${env[@]}" "EDGE_LISTEN_METRICS=127.0.0.1:$port")
run() { "${in_image[@]}" "$@"; } # run [NAME=VALUE…] COMMAND… in the image
listen() { # the listener in the background; it is the child of $running
    "${in_image[@]}" "$@" edge-listen >"$scratch/out" 2>"$scratch/err" &
    running=$!
    pids+=("$running")
}
alive() { pgrep -P "$running" >/dev/null; }
process() { pgrep -P "$running"; }
stop() { # ends with 0, within five seconds
    local begin=$SECONDS status=0
    alive || return 1
    kill -TERM "$(process)"
    wait "$running" || status=$?
    [ "$status" = 0 ] && [ $((SECONDS - begin)) -le 5 ]
}
within() { # within SECONDS COMMAND…: true as soon as the command is
    local end=$((SECONDS + $1))
    until "${@:2}"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.5
    done
}
get() { # get PATH TEXT: the answer has TEXT, whatever its status is
    python3 -c '
import http.client, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=4)
connection.request("GET", sys.argv[2])
answer = connection.getresponse()
sys.exit(sys.argv[3] not in f"{answer.status} {answer.read().decode()}")' "$port" "$1" "$2" 2>/dev/null
}
said() { grep -qiE "$1" "$scratch/out" "$scratch/err"; }
healthy() { run healthy >/dev/null 2>&1; }
unhealthy() { ! healthy; }
read_only() { ! run sh -c ': >/opt/edge-listen/x' 2>/dev/null && run sh -c ': >/var/lib/edge-listen/x && : >/var/cache/edge-listen/x'; }
ticks() { awk '{ print $14 + $15 }' "/proc/$(process)/stat" 2>/dev/null; }
idles() { # with under 2 % of a core, over 20 seconds
    local before used
    before=$(ticks) || return 1
    sleep 20
    alive || return 1
    used=$((($(ticks) - before) * 1000 / $(getconf CLK_TCK)))
    echo "     waiting: $used ms of processor time in 20 s"
    [ "$used" -lt 400 ]
}

check "only the state and cache folders can be written" read_only
check "edge-listen --version" run edge-listen --version

listen
check "without a microphone it starts, and is alive" within 40 get /healthz 200
check "it says that it has none" within 10 said "missing|no .*(microphone|device)"
check "it is not ready: the reason is that the microphone is missing" get /readyz missing
check "its health check fails" unhealthy
check "it idles" idles
check "it ends on SIGTERM, with 0, within five seconds" stop

export XDG_RUNTIME_DIR=$scratch/xdg HOME=$scratch/home
chmod 700 "$scratch/xdg"
pulseaudio -n --daemonize=no --exit-idle-time=-1 --log-target="file:$scratch/pulse.log" \
    -L "module-native-protocol-unix auth-anonymous=1" \
    -L "module-null-sink sink_name=vmic rate=16000 channels=1 format=s16le" \
    -L "module-remap-source master=vmic.monitor source_name=mic" &
pids+=($!)
within 20 pactl info >/dev/null 2>&1 || echo "FAIL a virtual microphone"
chmod 711 "$scratch/xdg" "$scratch/xdg/pulse"
listen PULSE_SERVER=unix:/run/pulse/pulse/native EDGE_LISTEN_DEVICE=pulse
check "with a microphone it hears" within 40 get /readyz 200
check "its health check passes" healthy
paplay --device=vmic examples/demo.ogg &
pids+=($!)
check "it names what it hears" within 60 said siren
check "it counts it" get /metrics 'edge_audio_events_total{label="siren"'
check "it ends on SIGTERM, with 0, within five seconds" stop
[ $failed = 0 ] || tail -n 5 "$scratch/out" "$scratch/err"
exit $failed
