#!/usr/bin/env bash
# Usage: container.sh BUILT PYTHON BASE_MODEL STORE -- NAME=VALUE... COMMAND...
# In mount and process namespaces of its own: runs COMMAND, with that environment and no other, on
# the root that an image made of BUILT would have on a cluster: read-only, but for /tmp and the
# volumes; user 65532, who is in no passwd; no capability; no compiler, header or other package of
# this machine's, nor the repository. PYTHON is the prefix of the interpreter that BUILT was made for.
set -euo pipefail
built=$1 python=$2 base=$3 store=$4
shift 5

root=$(mktemp -d)
mount -t tmpfs -o mode=755,size=64m tmpfs "$root"
hidden=$root/.hidden
mkdir -p "$hidden/bin" "$hidden/lib" "$hidden/local"
cd "$root"
hide() { # hide PATHS... below /usr from the overlay
    for path in "$@"; do
        mkdir -p "$hidden/$(dirname "$path")"
        [ -e "$hidden/$path" ] || mknod "$hidden/$path" c 0 0
    done
}
shopt -s nullglob extglob
for tool in /usr/bin/*@(gcc|g++|cpp|clang)* /usr/bin/@(as|ld|cc|make|cmake|ninja|nvcc|ar|ld.*|pip*|c89*|c99*|c++*); do
    hide "${tool#/usr/}"
done
hide include lib/gcc lib/python3/dist-packages local/lib lib/x86_64-linux-gnu/libnuma.so.1 \
    lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4
for library in "$built"/usr/lib/*/*.so*; do
    rm -f "$hidden/${library#"$built"/usr/}"
done

mkdir usr etc proc sys dev dev/shm opt opt/tailorbird var var/lib var/lib/tailorbird \
    var/cache var/cache/huggingface tmp base-model store
mount -t overlay overlay -o "lowerdir=$hidden:$built/usr:/usr" usr
for link in bin sbin lib lib64; do
    ln -s "usr/$link" "$link"
done
cp -a /etc/ld.so.cache /etc/ssl /etc/hosts etc
mount -t proc proc proc
mount --rbind /sys sys
for device in null zero full random urandom; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t tmpfs -o mode=1777 tmpfs tmp

read_only() { # read_only FROM TO
    mkdir -p "$2"
    mount --bind "$1" "$2"
    mount -o remount,bind,ro "$2"
}
read_only "$built/opt/tailorbird" opt/tailorbird
read_only "$base" base-model
case $python in
/usr | /usr/*) ;;
*) read_only "$python" ".$python" ;;
esac
mount --bind "$built/var/lib/tailorbird" var/lib/tailorbird
mount --bind "$built/var/cache/huggingface" var/cache/huggingface
mount --bind "$store" store
mount -o remount,ro "$root"
cd /
exec chroot "$root" /usr/bin/setpriv --reuid 65532 --regid 65532 --clear-groups \
    --bounding-set=-all --inh-caps=-all --no-new-privs /usr/bin/env -i "$@"
