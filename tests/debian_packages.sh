#!/bin/bash
# The programs that tests talk to for real and that Python cannot bring. `make test` runs this first.
# As root on Debian or Ubuntu it installs what is missing; elsewhere it says what is missing, and the tests that
# need it are skipped (under CI=true they fail instead).
set -euo pipefail

# program  package
NEEDED="prometheus prometheus
gpg gpg
ssh-keygen openssh-client
/usr/sbin/sshd openssh-server"

missing=()
while read -r program package; do
	[ -n "$(command -v "$program" || true)" ] || missing+=("$package")
done <<<"$NEEDED"
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "Not installed: ${missing[*]}. Tests that need it are skipped; on Debian or Ubuntu: sudo apt-get install ${missing[*]}" >&2
	exit 0
fi
echo "Installing for the tests: ${missing[*]}"
# RUNLEVEL: the package must not start a service of its own, tests start theirs with their own configuration.
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
install=(apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}")
if ! "${install[@]}" >/dev/null 2>&1; then
	apt-get update --quiet=2 || true
	"${install[@]}" >/dev/null || echo "Could not install ${missing[*]}; tests that need it are skipped" >&2
fi
