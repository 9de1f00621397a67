#!/bin/sh
# Creates the virtual environment $VENV with tested versions of all packages, and checks that Procgen loads.
set -eu
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}

fail() {
    echo "set-up: $1" >&2
    exit 2
}

# install PACKAGES...: installs with apt if permitted, else prints what to run.
install() {
    echo "set-up: needs $*"
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        sudo apt-get update -qq && sudo DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null
    else
        fail "please run: sudo apt-get install $*"
    fi
}

command -v "$PYTHON" >/dev/null || install python3
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "expected Python 3.11 or newer, got $("$PYTHON" -V) (PYTHON=python3.12 make ... chooses another)"
"$PYTHON" -c 'import ensurepip' 2>/dev/null || install python3-venv
[ -x "$VENV/bin/python" ] || "$PYTHON" -m venv "$VENV"
pip="$VENV/bin/python -m pip --disable-pip-version-check"

command -v c++ >/dev/null || command -v g++ >/dev/null || (install g++) || echo "set-up: without a C++ compiler, the kernels run in PyTorch"

# The general torch wheel includes gigabytes of CUDA. uv selects the build for the driver of this machine,
# or the CPU build without one; wheels that the user has configured for pip take precedence.
torch=$(grep '^torch==' constraints.txt)
if ! "$VENV/bin/python" -c 'import torch' 2>/dev/null; then
    echo "set-up: installing $torch"
    $pip install -q --no-index "$torch" 2>/dev/null && $pip install -q -c constraints.txt "$torch" ||
        { $pip install -q uv && "$VENV/bin/uv" pip install -q --python "$VENV/bin/python" --torch-backend auto \
            -c constraints.txt "$torch"; } ||
        $pip install -q -c constraints.txt "$torch"
fi
echo "set-up: installing the package and its dependencies (EnvPool alone is 400 MB)"
$pip install -q -c constraints.txt -e '.[planner,dmc,metaworld,gym,video,lerobot,tensorboard,dev]'

check() {
    "$VENV/bin/python" -c 'from bcvlr_fast.envs import make; make("procgen:bossfight", 1, 0).reset()'
}
check 2>/dev/null || {
    install libgl1 libglib2.0-0
    check || fail "EnvPool's Procgen does not load; the lines above say why"
}

"$VENV/bin/python" -c 'from bcvlr_fast.envs.pool import load_egl; load_egl()' 2>/dev/null || {
    (install libegl1 libegl-mesa0 libgl1-mesa-dri) || echo "set-up: without EGL, DMControl and MetaWorld cannot render"
}

simulator=$("$VENV/bin/python" -c 'from bcvlr_fast.experts import simulator as s; print("" if s.folder() else " ".join(s.install_command()))')
# shellcheck disable=SC2086  # the arguments of one command
[ -z "$simulator" ] || $pip -q $simulator || echo "set-up: without Procgen's simulator, the planner does not work"
