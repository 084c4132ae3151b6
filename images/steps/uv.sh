# Sourced by the other steps: uv in /tmp/tools, from its lock, until the step ends. No layer keeps it. A stage to mount it
# from would be shorter, but the buildah and podman of Debian 12 find nothing in a stage that is cached.
. "$(dirname "$0")/registry.sh"
trap 'rm -rf /tmp/tools' EXIT
python3 -m venv /tmp/tools
/tmp/tools/bin/python -m pip install --quiet --require-hashes -r "$(dirname "$0")/uv.txt"
uv_install() {  # uv_install PYTHON ARGUMENT...
  uv_python=$1
  shift
  /tmp/tools/bin/uv pip install --python "$uv_python" --link-mode copy "$@"
}
