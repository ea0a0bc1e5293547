#!/usr/bin/env bash
# Installs edge-listen on a Jetson with JetPack 6, for the processor, with a Python of its own: JetPack's is 3.10, and 3.11 is needed.
#   sudo deployment/jetson/install.sh              from a checkout; run it again to bring it up to date
#   sudo deployment/jetson/install.sh --uninstall  program and Python; configuration and state stay
#   sudo PYTHON=python3.11 deployment/jetson/install.sh   with an interpreter that is there, instead of one that uv brings
# The GPU is for the container (docs/jetson.md): there is no build of onnxruntime with TensorRT for this Python and JetPack 6.
set -euo pipefail

home=/opt/edge-listen
python=${PYTHON:-3.12}
extras=http,metrics,mqtt
source=$(cd "$(dirname "$0")/../.." && pwd)

fail() { echo "error: $1" >&2; exit 1; }

case "${1:-}" in
    "") ;;
    --uninstall)
        [ "$(id -u)" = 0 ] || fail "not root (run it with sudo)"
        rm -rf "$home"
        echo "removed $home; /etc/edge-listen and /var/lib/edge-listen are left"
        exit 0 ;;
    *) fail "unknown option $1 (allowed: --uninstall)" ;;
esac
[ "$(id -u)" = 0 ] || fail "not root (run it with sudo)"
[ "$(uname -m)" = aarch64 ] || fail "this is $(uname -m), and a Jetson is aarch64 (elsewhere, see deployment/README.md)"
[ -f /etc/nv_tegra_release ] || echo "warning: no /etc/nv_tegra_release: this is no Jetson that we know" >&2
[ -f "$source/pyproject.toml" ] || fail "$source is no checkout of edge-listen (run the script where it is)"

DEBIAN_FRONTEND=noninteractive apt-get update -qq || true # somebody else's repository may be away: install shows whether it matters
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates libasound2-plugins libportaudio2 python3-venv

# uv brings the Python; it is installed in a venv of JetPack's own, so that nothing of the system changes.
[ -x "$home/uv/bin/uv" ] || python3 -m venv "$home/uv"
"$home/uv/bin/pip" install -q --upgrade uv
export UV_PYTHON_INSTALL_DIR=$home/python UV_NO_CACHE=1
[ -n "${PYTHON:-}" ] || "$home/uv/bin/uv" python install -q "$python"

# A new environment beside the old one, and one rename when it works: a run that breaks off leaves what was there.
new=$home/venvs/$(date +%s)
"$home/uv/bin/uv" venv -q --python "$python" "$new"
"$home/uv/bin/uv" pip install -q --python "$new/bin/python" "${source}[$extras]"
"$new/bin/python" -c 'from edge.classifier import Classifier; Classifier()' || fail "the model does not pass its self-test here"
ln -sfn "$new" "$home/venv.next"
mv -T "$home/venv.next" "$home/venv"
ln -sfn venv/bin "$home/bin"
find "$home/venvs" -mindepth 1 -maxdepth 1 ! -path "$new" -exec rm -rf {} +

echo "installed: $home/bin/edge-listen, $("$home/bin/edge-listen" --version)"
echo "next: $home/bin/edge-listen --list-devices"
