#!/bin/sh
# llama.sh [--cuda --architectures LIST]: the pinned llama.cpp in /opt/llama.cpp, built by halops.llamacpp.
set -eu
. "$(dirname "$0")/uv.sh"
python3 -m venv /opt/builder
uv_install /opt/builder/bin/python --quiet --require-hashes -r "$(dirname "$0")/merge.txt"
export HALOPS_CACHE=/tmp/llama PYTHONPATH=/opt/halops
/opt/builder/bin/python -m halops.llamacpp build "$@"
mv "$(/opt/builder/bin/python -m halops.llamacpp path "$@")" /opt/llama.cpp
rm -rf /tmp/llama /opt/llama.cpp/build.log
chmod -R go+rX /opt/llama.cpp
