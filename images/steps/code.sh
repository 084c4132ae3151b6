#!/bin/sh
# HALops' own code: readable by everybody, compiled.
set -eu
chmod -R u+rwX,go+rX,go-w /opt/halops
/opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/halops
