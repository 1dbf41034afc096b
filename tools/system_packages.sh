#!/usr/bin/env bash
# Usage: system_packages.sh VENV
# Puts promtool and nginx into VENV/bin, libtcmalloc_minimal and libfaketime into VENV/lib, from Debian's packages,
# where the system has none. They are unpacked rather than installed: nothing is started and nothing
# outside VENV changes. Chromium alone, which needs a hundred other packages, is installed.
# `make demo` needs none of them; serving on a CPU is faster with tcmalloc.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$PWD/${1:-.venv}
tcmalloc=libtcmalloc_minimal.so.4
faketime=libfaketimeMT.so.1

declare -A package=([promtool]=prometheus [nginx]=nginx [$tcmalloc]=libtcmalloc-minimal4 [$faketime]=libfaketime)
missing=()
for tool in promtool nginx; do
    PATH="$venv/bin:$PATH:/usr/sbin" command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ! -e "$venv/lib/$tcmalloc" ] && ! { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p || true; } 2>/dev/null | grep -qF $tcmalloc; then
    missing+=($tcmalloc)
fi
[ -e "$venv/lib/$faketime" ] || missing+=($faketime)
command -v chromium >/dev/null || missing+=(chromium)
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
    if [ "$tool" = chromium ]; then
        DEBIAN_FRONTEND=noninteractive "${get[@]}" install -y --no-install-recommends chromium fonts-dejavu-core \
            >/dev/null || echo "chromium could not be installed: no test renders a page" >&2
        continue
    fi
    "${get[@]}" download "${package[$tool]}" || {
        echo "apt-get has no ${package[$tool]}: $tool stays missing" >&2
        continue
    }
    dpkg -x "${package[$tool]}"_*.deb unpacked
    to=$venv/bin/$tool
    [[ $tool == lib* ]] && to=$venv/lib/$tool
    install "$(find unpacked/usr/*bin unpacked/usr/lib -name "$tool" ! -type d 2>/dev/null | head -1)" "$to"
    echo "$tool is in $to"
done
