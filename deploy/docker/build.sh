#!/usr/bin/env bash
# Usage: BASE=IMAGE PREFIX=DIR build.sh STEP SERVICE DEVICE
#   packages   the locked packages, in DIR/opt/tailorbird
#   project    this project beside them, and byte code for all of it
#   runtime    Debian's packages and the folders that the service runs with
# SERVICE is trainer or serving, DEVICE is cpu or cuda, IMAGE is what the stage builds on. Every RUN
# of the Dockerfiles beside this file is one of these steps with PREFIX=/; tests/images runs the same
# lines into a scratch folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PREFIX:?is / in an image that is being built, a scratch folder elsewhere}"
root=${PREFIX%/}
python=${PYTHON:-python3}
# The environment's place in the image, wherever it is being built.
home=/opt/tailorbird
build=$root/var/tmp/tailorbird-build
user=65532

refuse() {
    echo "$*" >&2
    exit 1
}

check_base() {
    [[ ${BASE-} =~ ^[^@[:space:]]+@sha256:[0-9a-f]{64}$ ]] ||
        refuse "the base image '${BASE-}' is not named by its digest:" \
            "build with --build-arg BASE=NAME:TAG@sha256:DIGEST"
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
        refuse "the base image '$BASE' has no Python 3.11, which the locks are made for"
}

install() { # install ARGUMENTS... into the image's environment, by a pip that stays outside
    "$build/venv/bin/python" -m pip --python "$root$home/bin/python" --disable-pip-version-check \
        --no-input -q install --root-user-action=ignore --no-compile --no-deps "$@"
}

packages() { # packages SERVICE DEVICE
    "$python" -m venv "$build/venv"
    "$build/venv/bin/python" -m pip --disable-pip-version-check --no-input -q install \
        --root-user-action=ignore --require-hashes --no-deps -r requirements/build.txt
    "$python" -m venv --without-pip "$root$home"
    case $2 in
    cuda) install --only-binary :all: --require-hashes -r "requirements/gpu-$1.txt" ;;
    cpu) install --only-binary :all: -r "requirements/cpu-$1.txt" ;;
    esac
}

project() { # project SERVICE DEVICE
    "$build/venv/bin/python" -m pip --disable-pip-version-check --no-input -q wheel \
        --no-deps --no-build-isolation --wheel-dir "$build" .
    install --no-index "$build"/tailorbird-*.whl
    "$root$home/bin/python" - "$2" <<'PY'
import sys

import torch

found = "cuda" if torch.version.cuda else "cpu"
if found != sys.argv[1]:
    sys.exit(f"the package index gave torch {torch.__version__} for {found}, not for {sys.argv[1]}")
PY
    # Who runs in the image runs Python or tailorbird; of the packages' own commands, vLLM's kernels
    # that are compiled on a GPU need one.
    find "$root$home/bin" ! -type d ! -name 'python*' ! -name tailorbird ! -name ninja -delete
    [ -z "$root" ] || \
        sed -i "s|$root$home|$home|g" "$root$home/bin/tailorbird" "$root$home/pyvenv.cfg"
    # The root is read-only later. Some packages ship templates that are no Python: not an error.
    "$root$home/bin/python" -m compileall -qq -j 0 --invalidation-mode unchecked-hash \
        -s "$root" -p / "$root$home/lib" || true
    rm -rf "$build"
}

debian() { # debian PACKAGES...
    local get=(apt-get -qq -o APT::Sandbox::User=root)
    "${get[@]}" update
    if [ -z "$root" ]; then
        DEBIAN_FRONTEND=noninteractive "${get[@]}" install -y --no-install-recommends "$@"
        rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/apt
        return
    fi
    mkdir -p "$build"
    (cd "$build" && "${get[@]}" download "$@")
    for package in "$build"/*.deb; do
        dpkg -x "$package" "$root/"
    done
    rm -rf "$build"
}

runtime() { # runtime SERVICE DEVICE
    local stdlib headers
    headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ "$1-$2" != serving-cuda ] || [ -e "$headers/Python.h" ] ||
        refuse "the base image '$BASE' has no $headers/Python.h, which Triton compiles against"
    case $1-$2 in
    serving-cpu) debian tini libnuma1 libtcmalloc-minimal4 ;;
    # Triton compiles the launcher of each kernel, and vLLM's LoRA on a GPU is made of Triton kernels.
    serving-cuda) debian tini gcc g++ libc6-dev ;;
    *) debian tini ;;
    esac
    # The base's own pip and what it could come back from.
    stdlib=$root$("$python" -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')
    rm -rf "$stdlib"/ensurepip \
        "$stdlib"/site-packages/{pip,setuptools,wheel,pkg_resources,_distutils_hack} \
        "$stdlib"/site-packages/{pip,setuptools,wheel}-*.dist-info "$stdlib"/../../bin/{pip,wheel}*
    command install -d -o $user -g $user -m 0750 \
        "$root/var/lib/tailorbird" "$root/var/cache/huggingface"
}

case ${1-} in
packages | project | runtime) ;;
*) refuse "known steps are packages, project and runtime; got '${1-}'" ;;
esac
[[ ${2-} =~ ^(trainer|serving)$ && ${3-} =~ ^(cpu|cuda)$ && $# -eq 3 ]] ||
    refuse "known are trainer and serving, each on cpu and cuda; got '${*:2}'"
check_base
"$@"
