# preStop: SIGTERM would cut answers short, so wait until nobody is served. usage: drain.sh SETTLE_SECONDS TIMEOUT_SECONDS
set -uo pipefail
. "${BASH_SOURCE%/*}/http.sh"

# Connections from clients, by the kernel's table: state 01 is ESTABLISHED.
connections() {
  local local_address state count=0 suffix
  printf -v suffix ':%04X' "$port"
  while read -r _ local_address _ state _; do
    [[ $local_address == *"$suffix" && $state == 01 ]] && ((count++))
  done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
  echo "$count"
}

# Whether a request is worked on, or waits for a slot.
busy() {
  request "$(key)" GET /metrics 2>/dev/null
  [[ $body =~ llamacpp:requests_(processing|deferred)\ [1-9] ]]
}

sleep "$1"  # until Services and gateways send new requests elsewhere
until=$((SECONDS + $2)) worked=$SECONDS
# A client may keep its connection for the next request, which must find us here: llama-server closes one after 5 s without.
# One that is open and asks nothing for 10 s is not waited for.
while ((SECONDS < until && SECONDS - worked < 10)) && (($(connections) > 0)); do
  ! busy || worked=$SECONDS
  sleep 1
done
exit 0
