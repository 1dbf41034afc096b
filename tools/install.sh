#!/usr/bin/env bash
# Usage: install.sh PYTHON VENV
# Makes VENV with requirements/cpu.txt and this project in it. Running it again repairs it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1 venv=$2 parts=3

command -v "$python" >/dev/null || python=python3
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "Tailorbird needs Python 3.11 or newer: name one with 'make PYTHON=/path/to/python3.11'" >&2
    exit 1
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input -qq install
    --root-user-action=ignore)

scratch=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$scratch"' EXIT

# Several pips side by side: unpacking takes the time, and each pip does it on one core.
grep == requirements/cpu.txt | awk -v parts=$parts -v to="$scratch/part" '{ print > (to NR % parts) }'
echo "installing $(grep -c == requirements/cpu.txt) packages into $venv (4 GB; about two minutes)"
workers=()
for part in "$scratch"/part*; do
    "${pip[@]}" --no-warn-script-location --no-compile --no-deps --requirement "$part" &
    workers+=($!)
done
for worker in "${workers[@]}"; do
    wait "$worker" || { echo "pip could not install everything: see above" >&2; exit 1; }
done
"${pip[@]}" --no-deps --no-build-isolation --editable .

# Byte code for what is imported, not for all 27,000 modules; written also where the environment
# tells Python not to, or each process of a service would compile it anew.
PYTHONDONTWRITEBYTECODE='' VLLM_LOGGING_LEVEL=ERROR "$venv/bin/python" >/dev/null 2>&1 -c '
import peft, torch, transformers.models.llama.modeling_llama
import vllm.model_executor.models.llama, vllm.v1.engine.async_llm, vllm.v1.engine.core
import vllm.v1.worker.cpu_worker
import serving_svc.app, tailorbird.cli.app, trainer_svc.app' || true
echo "installed in $SECONDS s"
