#!/bin/sh
# sbom.sh ARGUMENT...: runs sbom.py, with the tool that its lock pins.
set -eu
. "$(dirname "$0")/uv.sh"
uv_install /tmp/tools/bin/python --quiet --no-cache --require-hashes -r "$(dirname "$0")/sbom.txt"
/tmp/tools/bin/python "$(dirname "$0")/sbom.py" "$@"
