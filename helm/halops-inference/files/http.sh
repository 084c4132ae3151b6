# HTTP for the probes by bash alone: the image has no curl, and needs none. To be sourced.
host=${HALOPS_HOST:-127.0.0.1} port=${HALOPS_PORT:-8080} keys=${HALOPS_KEYS:-/etc/halops/keys/keys} log=${HALOPS_LOG:-/run/halops/server.log}

# The first API key; nothing where none is asked for.
key() {
  local line
  [[ -r $keys ]] || return 0
  while read -r line || [[ -n $line ]]; do
    [[ -z $line || $line == \#* ]] || { printf %s "$line"; return; }
  done <"$keys"
}

# request KEY METHOD PATH [BODY]: sets `status` (000 where nobody listens) and `body`.
request() {
  local LC_ALL=C line text=${4:-} # lengths are in bytes
  status=000 body=
  exec 3<>"/dev/tcp/$host/$port" || return 0
  {
    printf '%s %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n' "$2" "$3" "$host"
    [[ -z $1 ]] || printf 'Authorization: Bearer %s\r\n' "$1"
    printf 'Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s' "${#text}" "$text"
  } >&3
  read -r _ status _ <&3 || status=000
  while IFS= read -r line <&3 && [[ $line != $'\r' ]]; do :; done
  IFS= read -r -d '' body <&3 || true
  exec 3<&-
}

chat() { request "$1" POST /v1/chat/completions "{\"max_tokens\": $2, \"messages\": [{\"role\": \"user\", \"content\": \"ping\"}]}"; }
