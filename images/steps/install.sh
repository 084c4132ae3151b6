#!/bin/sh
# install.sh LOCK: the locked packages in the virtual environment /opt/venv, which also sees /opt/halops.
# With TORCH_INDEX, torch comes from that index, and the CUDA libraries of the lock are left out.
set -eu
. "$(dirname "$0")/uv.sh"
lock=$1
[ -x /opt/venv/bin/python ] || python3 -m venv --without-pip /opt/venv
if [ -n "${TORCH_INDEX:-}" ]; then
  awk -f "$(dirname "$0")/without-cuda.awk" "$lock" >/tmp/lock.txt
  uv_install /opt/venv/bin/python --require-hashes --no-deps -r /tmp/lock.txt
  sed -n 's/^\(torch==[^ ]*\).*/\1/p' "$lock" >/tmp/torch.txt
  if [ -n "${TORCH_SHA256:-}" ]; then
    echo "$(cat /tmp/torch.txt) --hash=sha256:$TORCH_SHA256" >/tmp/torch.txt
    uv_install /opt/venv/bin/python --require-hashes --no-deps --default-index "$TORCH_INDEX" -r /tmp/torch.txt
  else
    echo "torch from $TORCH_INDEX is pinned by version only: TORCH_SHA256 would pin its bytes" >&2
    uv_install /opt/venv/bin/python --no-deps --default-index "$TORCH_INDEX" -r /tmp/torch.txt
  fi
  rm /tmp/lock.txt /tmp/torch.txt
else
  uv_install /opt/venv/bin/python --require-hashes -r "$lock"
fi
packages=$(/opt/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
echo /opt/halops >"$packages/halops.pth"

# What HALops never imports: AWS services other than S3 and those that give credentials, kubernetes' asyncio twin,
# the tests and type stubs of libraries. torch stays whole: it imports parts of its own testing package.
if [ -d "$packages/botocore/data" ]; then
  find "$packages/botocore/data" -mindepth 1 -maxdepth 1 -type d \
    ! -name s3 ! -name sts ! -name sso ! -name sso-oidc ! -name signin -exec rm -rf {} +
fi
rm -rf "$packages/kubernetes/aio"
find "$packages" -mindepth 2 -type d -name tests ! -path "$packages/torch/*" -prune -exec rm -rf {} +
find "$packages" -name '*.pyi' -delete

# kubernetes is 30 MB of generated source that nobody reads in a container: its compiled form alone is kept.
if [ -d "$packages/kubernetes" ]; then
  /opt/venv/bin/python -m compileall -q -b -j 0 --invalidation-mode unchecked-hash "$packages/kubernetes"
  find "$packages/kubernetes" -name '*.py' -delete
  find "$packages/kubernetes" -name __pycache__ -prune -exec rm -rf {} +
fi

# Archives to link against, nvshmem's above all.
find "$packages" -name '*.a' -delete

# A read-only root can't keep compiled files, so they are made here, where the base hasn't them already. They need no
# check: their sources never change. Some libraries ship templates that don't compile, which is no fault.
find "$packages" -name '*.py' >/tmp/sources.txt
/opt/venv/bin/python -c '
import importlib.util, os, sys
print(*(path for path in sys.stdin.read().split("\n") if path and not os.path.exists(importlib.util.cache_from_source(path))), sep="\n")
' </tmp/sources.txt >/tmp/uncompiled.txt
if [ -s /tmp/uncompiled.txt ]; then
  /opt/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash -i /tmp/uncompiled.txt >/dev/null 2>&1 || true
fi
rm /tmp/sources.txt /tmp/uncompiled.txt
