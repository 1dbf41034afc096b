#!/usr/bin/env bash
# Usage: system_packages.sh VENV
# Puts promtool and nginx into VENV/bin, from Debian's packages, where the system has none. They are
# unpacked rather than installed: nothing is started and nothing outside VENV changes. `make demo`
# needs neither.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/${1:-.venv}

declare -A package=([promtool]=prometheus [nginx]=nginx)
missing=()
for tool in "${!package[@]}"; do
    PATH="$venv/bin:$PATH:/usr/sbin" command -v "$tool" >/dev/null || missing+=("$tool")
done
[ ${#missing[@]} -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
    echo "not found: ${missing[*]}; a few tests and checks are skipped without them" >&2
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
get=(apt-get -qq -o APT::Sandbox::User=root)
"${get[@]}" update || echo "apt-get update failed: going on with the lists at hand" >&2
for tool in "${missing[@]}"; do
    "${get[@]}" download "${package[$tool]}" || {
        echo "apt-get has no ${package[$tool]}: $tool stays missing" >&2
        continue
    }
    dpkg -x "${package[$tool]}"_*.deb unpacked
    install "$(find unpacked/usr/bin unpacked/usr/sbin -name "$tool" 2>/dev/null | head -1)" "$venv/bin/$tool"
    echo "$tool is in $venv/bin"
done
