#!/usr/bin/env bash
# Puts the OpenAPI schemas of four Kubernetes minors, and of the other kinds that we make (Kueue, Prometheus Operator, Gateway
# API, KEDA), into the user's cache, small and compressed, and prints their folder. They come from the projects' own Go modules, by pinned checksums. Says nothing when they are there.
set -euo pipefail

modules="
k8s.io/kubernetes v1.33.13 h1:bmH31xUdSzeA5vk0wZAK9MZp11mdLuzUSeKk0qN3hPQ=
k8s.io/kubernetes v1.34.4 h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk=
k8s.io/kubernetes v1.35.4 h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM=
k8s.io/kubernetes v1.36.3 h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o=
sigs.k8s.io/kueue v0.19.0 h1:5yCu85qsJhvUVVxE0Csw546DDBcRwUXpBEOmEFlws34=
github.com/prometheus-operator/prometheus-operator v0.85.0 h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=
sigs.k8s.io/gateway-api v1.6.3 h1:lKpJa5bGlraC/QeACvCpsHLdmO6y0iKfzVl6gzaFEYc=
github.com/kedacore/keda/v2 v2.21.0 h1:R6z2HZvstK4RLUMxroNACzBj74xGxt3kG59b5Xc+Xps="
# their definitions of custom resources, below the module
definitions="
config/components/crd/bases/kueue.x-k8s.io_clusterqueues.yaml
config/components/crd/bases/kueue.x-k8s.io_localqueues.yaml
config/components/crd/bases/kueue.x-k8s.io_resourceflavors.yaml
example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml
example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml
config/crd/standard/gateway.networking.k8s.io_httproutes.yaml
config/crd/bases/keda.sh_scaledobjects.yaml"
key=$(sha256sum "$0" | head -c 12) # other modules, or another way to keep them: another folder
cache=${HALOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halops}
folder=$cache/kube-schemas/$key

if [[ -f $folder/complete ]]; then
  echo "$folder"
  exit
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/fetch.XXXXXX")
trap 'chmod -R u+w "$work"; rm -rf "$work"' EXIT
go=$("$(dirname "$0")/go.sh" 1.21 "$work/toolchain")

# A manifest's checker needs the definitions alone, without their prose.
slim='
import gzip, json, sys
def bare(node):
    if isinstance(node, dict):
        return {key: bare(value) for key, value in node.items()
                if key != "description" or not isinstance(value, str)}
    return [bare(item) for item in node] if isinstance(node, list) else node
document = json.load(open(sys.argv[1]))
with gzip.GzipFile(sys.argv[2], "wb", mtime=0) as stream:
    stream.write(json.dumps(bare(document["definitions"]), separators=(",", ":")).encode())
'

while read -r module version sum; do
  [[ -n $module ]] || continue
  echo "kube-schemas: $module $version" >&2
  export GOMODCACHE=$work/mod GOROOT='' GOTOOLCHAIN=local GOFLAGS=-mod=mod
  (cd "$work" && "$go" mod download -json "$module@$version") >"$work/answer.json"
  source=$("${PYTHON:-python3}" -c '
import json, sys
answer = json.load(open(sys.argv[1]))
assert answer["Sum"] == sys.argv[2], "the checksum is another: " + answer["Sum"]
print(answer["Dir"])' "$work/answer.json" "$sum")
  if [[ $module == k8s.io/kubernetes ]]; then
    minor=${version#v}
    "${PYTHON:-python3}" -c "$slim" "$source/api/openapi-spec/swagger.json" "$folder/${minor%.*}.json.gz"
  else
    for path in $definitions; do
      [[ ! -f $source/$path ]] || gzip -9 -n -c "$source/$path" >"$folder/${path##*_}.gz"
    done
  fi
  chmod -R u+w "$work/mod" && rm -rf "$work/mod"
done <<<"$modules"
touch "$folder/complete"
echo "$folder"
