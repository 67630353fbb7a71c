#!/bin/sh
# Run a command in a clone of this tree on a freshly made Debian 12 that has nothing installed but make:
#
#     tools/fresh_machine.sh make demo
#
# It takes over from this machine how packages are reached: apt's and pip's settings, certificates, name servers. The
# root is entered with pivot_root, not chroot, in which no user namespace could be made.
set -eu

[ "$(id -u)" = 0 ] && command -v mmdebstrap >/dev/null || {
    echo "usage: $0 COMMAND, as root, with mmdebstrap installed" >&2
    exit 2
}
tree=$(cd "$(dirname "$0")/.." && pwd)
root=$(mktemp -d /var/tmp/fresh-machine.XXXXXX)
# Its mounts end with its mount namespace; --one-file-system is for the case that they do not.
trap 'rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM

mmdebstrap --quiet --variant=minbase --include=make,ca-certificates bookworm "$root"
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
cp -a /etc/ssl/certs/. "$root/etc/ssl/certs/"
git clone -q "$tree" "$root/root/wherry"
python3 -m pip config list 2>/dev/null | sed 's/^:env:/global./; s/^[a-z]*\.\([^=]*\)=.\(.*\).$/\1 = \2/; 1i [global]' \
    >"$root/etc/pip.conf"
# Folders that pip's settings name are to be seen there as well, with the files that an index refers to.
folders=$(grep -o '/[^ ]*' "$root/etc/pip.conf" | sed 's|^//*|/|; s|/simple/*$||' | sort -u)

export root folders
unshare --mount --propagation private sh -eu -c '
    mount --bind "$root" "$root"
    cd "$root"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs tmpfs run
    for folder in $folders; do
        [ -d "$folder" ] || continue
        mkdir -p "$root$folder"
        mount --bind "$folder" "$root$folder"
    done
    mkdir -p old
    pivot_root . old
    umount --lazy /old
    cd /root/wherry
    exec env -i HOME=/root TERM="${TERM:-dumb}" PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
' sh "$@"
