#!/usr/bin/env bash
# Builds helm and what checks our chart into the user's cache, and prints the path of one program (helm, unless named).
# usage: tools/helm.sh [helm|helm-unittest|helm-docs|helm-schema]     Says nothing else when it is there.
set -euo pipefail

# program, package in the module, module, version, checksum. Each is built as its own main module: with the dependencies
# that its go.sum pins, and its replacements.
programs="
helm ./cmd/helm helm.sh/helm/v4 v4.3.1 h1:UndCoLe9UPmNoL7IvWzaUXveL7T5t/ijoorEmgJdI9g=
helm-unittest ./cmd/helm-unittest github.com/helm-unittest/helm-unittest v1.1.2 h1:r1Ah6Pr3h4kqvd65RN+r0FNTIGrJa+P9rcMyzwHEXXQ=
helm-docs ./cmd/helm-docs github.com/norwoodj/helm-docs v1.14.2 h1:Ew3bCq1hZqMnnTopkk66Uy2mGwu/jAclAx+3JAVp1To=
helm-schema . github.com/losisin/helm-values-schema-json/v2 v2.3.1 h1:JZDV9GGWh+jjTn3QboI9sO1Kz+JJZqYRjlQyNbODCjM="
go_needed=1.26
wanted=${1:-helm}
cache=${HALOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halops}

read -r program package module version sum < <(grep "^$wanted " <<<"$programs") || { echo "helm: no program $wanted" >&2; exit 2; }
folder=$cache/helm/$program-$version
if [[ -x $folder/$program ]]; then
  echo "$folder/$program"
  exit
fi

mkdir -p "$folder"
exec 9>"$folder.lock"
flock 9
[[ -x $folder/$program ]] && { echo "$folder/$program"; exit; } # somebody else has just built it
work=$(mktemp -d "$folder/build.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
go=$("$(dirname "$0")/go.sh" "$go_needed" "$work/toolchain")
export GOROOT='' GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0

echo "helm: building $program $version (about two minutes)" >&2
(cd "$work" && "$go" mod download -json "$module@$version") >"$work/answer.json" || { cat "$work/answer.json" >&2; exit 1; }
source=$("${PYTHON:-python3}" -c '
import json, sys
answer = json.load(open(sys.argv[1]))
assert answer["Sum"] == sys.argv[2], "the checksum is another: " + answer["Sum"]
print(answer["Dir"])' "$work/answer.json" "$sum")
(cd "$source" && "$go" build -p 2 -trimpath -buildvcs=false -ldflags "-s -w" -o "$work/$program" "$package") >"$work/log" 2>&1 ||
  { tail -n 20 "$work/log" >&2; echo "helm: the build of $program failed" >&2; exit 1; }
mv "$work/$program" "$folder/$program"
echo "$folder/$program"
