#!/bin/sh
# The demo: a daemon in a temporary place, an image from busybox, a container, and how long each step took.
set -eu
bin=$1
place=$(mktemp -d /tmp/wherry-demo.XXXXXX)
daemon=

finish() {
    status=$?
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
    [ "$status" = 0 ] || sed 's/^/  wherryd: /' "$place/log" >&2
    rm -rf "$place"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

say() {
    printf '\n$ %s\n' "$*"
}

# A namespace of its own: the OCI runtime's state is kept by namespace, and others may be at work here.
export WHERRY_NAMESPACE="demo-$$"
export WHERRY_ADDRESS="$place/state/wherry.sock"

say "wherryd --root $place/root --state $place/state &"
"$bin/wherryd" --root "$place/root" --state "$place/state" 2>"$place/log" &
daemon=$!
tries=0
until [ -S "$WHERRY_ADDRESS" ]; do
    tries=$((tries + 1))
    if [ "$tries" -gt 200 ] || ! kill -0 "$daemon" 2>/dev/null; then
        echo "wherryd did not start" >&2
        exit 1
    fi
    sleep 0.05
done
"$bin/wherry" version

mkdir -p "$place/rootfs/bin" "$place/rootfs/etc"
cp /bin/busybox "$place/rootfs/bin/"
for applet in $("$place/rootfs/bin/busybox" --list); do
    [ "$applet" = busybox ] || ln -s busybox "$place/rootfs/bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >"$place/rootfs/etc/passwd"
tar -C "$place/rootfs" -cf "$place/busybox.tar" .

say "wherry image import --rootfs busybox.tar busybox"
"$bin/wherry" image import --rootfs "$place/busybox.tar" busybox

set -- sh -c 'echo "hello from $(hostname), pid $$ of $(ls -d /proc/[0-9]* | wc -l) processes"'
say "wherry run --rm --hostname a-container --timing busybox sh -c 'echo \"hello from \$(hostname), …\"'"
"$bin/wherry" run --rm --hostname a-container --timing busybox "$@"

say "wherry run --rm busybox sh -c 'exit 7'; echo \$?"
"$bin/wherry" run --rm busybox sh -c 'exit 7' || echo $?

say "wherry ps --all; wherry image ls"
"$bin/wherry" ps --all
"$bin/wherry" image ls
"$bin/wherry" image rm busybox >/dev/null
