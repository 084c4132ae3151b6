#!/usr/bin/env bash
# Installs kustomize into the user's cache and prints the path of its binary. Says nothing when it is there.
set -euo pipefail

version=v5.8.1
go_needed=1.24
cache=${HALOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halops}
folder=$cache/kustomize/$version

if [[ -x $folder/kustomize ]]; then
  echo "$folder/kustomize"
  exit
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/build.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
go=$("$(dirname "$0")/go.sh" "$go_needed" "$work/toolchain")

echo "kustomize: building $version (about a minute)" >&2
GOROOT='' GOTOOLCHAIN=local CGO_ENABLED=0 GOFLAGS=-trimpath GOBIN=$work/bin \
  "$go" install -p 2 "sigs.k8s.io/kustomize/kustomize/v5@$version" >"$work/log" 2>&1 ||
  { tail -n 20 "$work/log" >&2; echo "kustomize: the build failed" >&2; exit 1; }
mv "$work/bin/kustomize" "$folder/kustomize"
echo "$folder/kustomize"
