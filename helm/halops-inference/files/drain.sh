# preStop: SIGTERM would cut answers short, so wait until nobody is served. usage: drain.sh SETTLE_SECONDS TIMEOUT_SECONDS
set -uo pipefail
. "${BASH_SOURCE%/*}/http.sh"

# The clients' ends of connections to us, by the kernel's table: state 01 is ESTABLISHED.
clients() {
  local local_address client state suffix
  printf -v suffix ':%04X' "$port"
  while read -r _ local_address client state _; do
    [[ $local_address == *"$suffix" && $state == 01 ]] && echo "$client"
  done < <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
}

# Whether a request is worked on or waits for a slot, or any was since the last look: short ones fall between looks, but
# they move counters and rates.
busy() {
  local last=$metrics
  request "$(key)" GET /metrics 2>/dev/null
  metrics=$body
  [[ $body =~ llamacpp:requests_(processing|deferred)\ [1-9] || $body != "$last" ]]
}

# Services and gateways need a while to send new requests elsewhere. Where we are the only pod they go on sending them here
# until another one is ready, so it isn't enough that nobody is connected: nobody must have come for that while. SECONDS
# counts the clock's full seconds, of which the first can be over at once.
settle=$1 until=$((SECONDS + $1 + $2)) moved=$SECONDS worked=$SECONDS before= metrics=
while ((SECONDS < until)); do
  now=$(clients)
  [[ $now == "$before" ]] || moved=$SECONDS worked=$SECONDS before=$now
  # A client may keep its connection for the next request, which must find us here: llama-server closes one after 5 s
  # without. One that is open and asks nothing for 10 s is not waited for.
  [[ -n $now ]] || ((SECONDS - moved <= settle)) || break
  ! busy || worked=$SECONDS
  ((SECONDS - worked <= (settle > 10 ? settle : 10))) || break
  sleep 1
done
exit 0
