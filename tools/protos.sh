#!/usr/bin/env bash
# Usage: protos.sh generate BIN | drift BIN | lint BIN BUF
# Generates the stubs, shows whether the committed ones differ, or lints the protos.
set -euo pipefail
cd "$(dirname "$0")/.."
action=$1 bin=$2
mapfile -t files < <(cd protos && find tailorbird -name '*.proto' | sort)
googleapis=$("$bin/python" -c 'import google.api.field_behavior_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])')

generate() { # generate DIR
    PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -Iprotos -I"$googleapis" \
        --python_out="$1" --grpc_python_out="$1" --mypy_out="quiet:$1" --mypy_grpc_out="quiet:$1" \
        "${files[@]}"
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
case $action in
generate) generate shared ;;
drift)
    generate "$scratch"
    (cd "$scratch" && find . -type f) | while read -r stub; do
        diff -q "$scratch/$stub" "shared/$stub" >/dev/null ||
            { echo "stub differs from protos/: shared/${stub#./}; run 'make protos'" >&2; exit 1; }
    done
    echo "stubs match protos/"
    ;;
lint)
    # buf would fetch googleapis from its registry; an image made by protoc carries it instead.
    "$bin/python" -m grpc_tools.protoc -Iprotos -I"$googleapis" --include_imports \
        --include_source_info --descriptor_set_out="$scratch/image.binpb" "${files[@]}"
    "$3" lint "$scratch/image.binpb" --config protos/buf.yaml
    echo "protos pass buf lint"
    ;;
esac
