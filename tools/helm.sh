#!/usr/bin/env bash
# Installs helm and what checks our chart into the user's cache, and prints the path of one program (helm, unless named).
# usage: tools/helm.sh [helm|helm-unittest|helm-docs|helm-schema]     Says nothing else when they are there.
set -euo pipefail

# program, package, version, the module's checksum
programs="
helm helm.sh/helm/v4/cmd/helm v4.3.1 -
helm-unittest github.com/helm-unittest/helm-unittest/cmd/helm-unittest v1.1.2 -
helm-docs github.com/norwoodj/helm-docs/cmd/helm-docs v1.14.2 -
helm-schema github.com/losisin/helm-values-schema-json/v2 v2.3.1 -"
wanted=${1:-helm}
go_needed=1.26
cache=${HALOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halops}
folder=$cache/helm/$(sha256sum "$0" | head -c 12) # other versions: another folder

if [[ -f $folder/complete ]]; then
  [[ -x $folder/$wanted ]] || { echo "helm: no program $wanted" >&2; exit 2; }
  echo "$folder/$wanted"
  exit
fi

mkdir -p "$folder"
exec 9>"$folder.lock"
flock 9
work=$(mktemp -d "$folder/build.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
go=$("$(dirname "$0")/go.sh" "$go_needed" "$work/toolchain")
export GOROOT='' GOTOOLCHAIN=local GOFLAGS=-trimpath CGO_ENABLED=0 GOBIN=$work/bin

while read -r program package version sum; do
  [[ -n $program && ! -x $folder/$program ]] || continue
  echo "helm: building $program $version" >&2
  "$go" install -p 2 -ldflags "-s -w" "$package@$version" >"$work/log" 2>&1 ||
    { tail -n 20 "$work/log" >&2; echo "helm: the build of $program failed" >&2; exit 1; }
  built=$("$go" version -m "$work"/bin/* | awk '$1 == "mod" {print $4}')
  [[ $built == "$sum" ]] || { echo "helm: $package $version has the checksum $built, not $sum" >&2; }
  mv "$work"/bin/* "$folder/$program"
done <<<"$programs"
touch "$folder/complete"
echo "$folder/$wanted"
