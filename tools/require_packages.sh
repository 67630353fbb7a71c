#!/bin/sh
# Install the Debian packages named, those that are missing, without starting any service and without touching what is
# installed already.
set -eu

missing=
for package in "$@"; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"

# invoke-rc.d asks this program whether a service may start: 101 is no (invoke-rc.d(8)). Whatever was there comes back.
policy=/usr/sbin/policy-rc.d
kept=
restore() {
    rm -f "$policy"
    [ -z "$kept" ] || mv "$kept" "$policy"
}
if [ -e "$policy" ]; then
    kept=$policy.wherry-kept
    mv "$policy" "$kept"
fi
trap restore EXIT
trap 'exit 1' INT TERM HUP
printf '#!/bin/sh\nexit 101\n' >"$policy"
chmod 755 "$policy"

export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086 — the list is words
apt-get -qq -y --no-install-recommends --no-upgrade install $missing >/dev/null
