#!/bin/sh
# system.sh PACKAGE...: Debian packages, the user that everything runs as, and its scratch folder.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -qy --no-install-recommends "$@"
rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/dpkg.log /var/log/alternatives.log
if ! getent passwd 10001 >/dev/null; then
  groupadd --gid 10001 halops
  useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin halops
fi
install -d -o 10001 -g 10001 /work
