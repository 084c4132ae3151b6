#!/usr/bin/env bash
# Builds the images that the cluster tests run: localhost/halops-{merge,train,convert,serve}:test, in buildah's store.
# usage: tools/test-images.sh [IMAGE...]     prints the images' names; unchanged ones cost a second.
#
# The Dockerfiles are the users'. What differs: the base is made here by debootstrap; uv's cache and the llama.cpp that the
# tests built are this machine's; convert stands on train's packages, so that torch is on the disk once.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=chroot  # needs no cgroups and no network of its own

say() { echo "test-images: $*" >&2; }
[[ $EUID == 0 ]] || { say "needs root, for debootstrap and buildah"; exit 1; }
. /etc/os-release
[[ $ID == debian ]] || { say "needs Debian, found $ID"; exit 1; }
suite=$VERSION_CODENAME
wanted=("$@")
(( $# )) || wanted=(merge train convert serve)
cache=${HALOPS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/halops}
mkdir -p "$cache"
exec 9>"$cache/test-images.lock"
flock 9
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

need() {  # need COMMAND PACKAGE
  command -v "$1" >/dev/null && return
  say "installing $2"
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "$2"; } >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; exit 1; }
}

digest() { sha256sum | cut -c1-16; }
contents() { find "$@" -type f ! -name '*.pyc' -print0 | sort -z | xargs -0 sha256sum; }
id_of() { buildah images --quiet --no-trunc "$1" 2>/dev/null || true; }
key_of() { buildah inspect --type image --format '{{index .OCIv1.Config.Labels "halops.dev/key"}}' "$1" 2>/dev/null || true; }

# A Debian with Python, from the mirror and the sources that this machine uses.
make_base() {
  local include=python3,python3-venv
  local key; key=$({ echo "$suite $include"; declare -f make_base; } | digest)
  base=localhost/halops-base:$suite
  [[ $(key_of "$base") == "$key" ]] && return
  need debootstrap debootstrap
  local mirror; mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    awk -v suite="$suite" '$2 == suite && $3 == "main" {print $1; exit}')
  say "making the base, Debian $suite (about a minute)"
  local container root; container=$(buildah from scratch); root=$(buildah mount "$container")
  debootstrap --variant=minbase --include="$include" "$suite" "$root" "$mirror" >"$work/log" 2>&1 ||
    { tail -n 5 "$work/log" >&2; buildah rm "$container" >/dev/null; exit 1; }
  apt-get indextargets --format 'deb $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
    grep -E " $suite(-updates|-security)? main$" >"$root/etc/apt/sources.list"
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* "$root"/var/log/* "$root"/debootstrap \
    "$root"/usr/share/{doc,man,info,locale}/*
  buildah config --cmd bash --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    --label halops.dev/key="$key" "$container"
  buildah umount "$container" >/dev/null
  buildah commit --quiet --rm "$container" "$base" >/dev/null
}

# The llama.cpp of the user's cache, built on this same Debian, as an image.
make_llama() {
  local folder; folder=$("$python" -m halops.llamacpp build)
  llama=localhost/halops-llama:$(basename "$folder")
  [[ -n $(id_of "$llama") ]] && return
  local container; container=$(buildah from scratch)
  buildah copy --quiet "$container" "$folder" /opt/llama.cpp >/dev/null
  buildah commit --quiet --rm "$container" "$llama" >/dev/null
}

# What a build needs of this machine's package settings, for the time of the build only.
registry=()
if [[ -n ${PIP_INDEX_URL:-} ]]; then
  printf '[global]\nindex-url = %s\n' "$PIP_INDEX_URL" >"$work/pip.conf"
  printf '[[index]]\nurl = "%s"\ndefault = true\n' "$PIP_INDEX_URL" >"$work/uv.toml"
  registry+=(--secret "id=pip,src=$work/pip.conf" --secret "id=uv,src=$work/uv.toml")
elif [[ -f /etc/pip.conf ]]; then
  registry+=(--secret id=pip,src=/etc/pip.conf)
fi
ca=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
[[ -f $ca ]] && registry+=(--secret "id=ca,src=$ca")

build() {  # build NAME DOCKERFILE [ARGUMENT...]
  local name=$1 file=$2; shift 2
  buildah build --layers --force-rm --quiet --file "$file" --tag "$name" "${registry[@]}" \
    --volume "$uv_cache:/run/uv-cache" --build-arg UV_CACHE_DIR=/run/uv-cache "$@" . >"$work/log" 2>&1 ||
    { tail -n 40 "$work/log" >&2; say "$name: the build failed"; exit 1; }
}

image() {  # image NAME BASE [ARGUMENT...]
  local name=localhost/halops-$1:test file=images/$1/Dockerfile from=$2
  local inputs=("$file" images/steps requirements .dockerignore)
  if [[ $1 == serve ]]; then inputs+=(halops/llamacpp); else inputs+=(halops); fi
  shift 2
  local key; key=$({ contents "${inputs[@]}"; echo "$(id_of "$from") $*"; } | digest)
  echo "$name"
  [[ $(key_of "$name") == "$key" ]] && return
  local start=$SECONDS
  say "building $name"
  build "$name" "$file" --build-arg BASE="$from" --label halops.dev/key="$key" "$@"
  say "built $name in $((SECONDS - start)) s"
}

need buildah buildah
need tini tini
python=${PYTHON:-.venv/bin/python}
uv_cache=$(.venv/bin/uv cache dir 2>/dev/null || echo "${XDG_CACHE_HOME:-$HOME/.cache}/uv")
mkdir -p "$uv_cache"
make_base
for name in "${wanted[@]}"; do
  case $name in
    merge) image merge "$base" ;;
    train) image train "$base" ;;
    convert)
      make_llama
      packages=localhost/halops-train-packages:test
      build "$packages" images/train/Dockerfile --target dependencies --build-arg BASE="$base"
      image convert "$packages" --build-arg LLAMA="$llama" ;;
    serve)
      make_llama
      image serve "$base" --build-arg BUILD_BASE="$base" --build-arg LLAMA="$llama" --target cpu ;;
    *) say "no image $name: merge, train, convert, serve"; exit 2 ;;
  esac
done
buildah rmi --prune >/dev/null 2>&1 || true  # what the new ones replaced
