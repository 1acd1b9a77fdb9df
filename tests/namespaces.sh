#!/bin/sh
# Ring 3 with a network between: eight peers over TLS, each in a network namespace of its own, under 20 % loss
# and 100 ms delay, two killed, links cut for 30 s. Takes about five minutes.
#
# Needs root (for namespaces), iproute2, python3 and /dev/net/tun; no netem: tests/namespaces/switch.py loses and
# delays packets itself. Says what is missing and ends with 2 if it cannot run.
set -eu
cd "$(dirname "$0")/.."
missing() {
    echo "tests/namespaces.sh: $1" >&2
    exit 2
}
[ "$(id -u)" = 0 ] || missing "must be root, for network namespaces"
for program in ip python3 cargo; do
    command -v "$program" > /dev/null || missing "\`$program\` is not installed"
done
[ -c /dev/net/tun ] || missing "there is no /dev/net/tun, so no interface that the switch could serve"
ip netns add "star-try-$$" || missing "network namespaces cannot be made here"
ip netns del "star-try-$$"
exec cargo test --workspace --locked --test namespaces -- --ignored --nocapture
