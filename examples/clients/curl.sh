#!/usr/bin/env bash
# curl against a model that HALops serves. The key goes in by a file, so that no list of processes shows it.
#   export OPENAI_BASE_URL=http://ops.serving.svc/v1 OPENAI_API_KEY=...
#   ./curl.sh "lock-vel-03 is down. What do I run first?"
set -euo pipefail
question=${1:-"lock-vel-03 is down. What do I run first?"}
quoted=$(printf '%s' "$question" | sed 's/\\/\\\\/g; s/"/\\"/g')

ask() { # the request's body on standard input
  curl --silent --show-error --fail-with-body --max-time 120 "$OPENAI_BASE_URL/chat/completions" \
    --header @<(printf 'Authorization: Bearer %s\n' "$OPENAI_API_KEY") \
    --header 'Content-Type: application/json' --data-binary @- "$@"
}

ask <<<"{\"messages\": [{\"role\": \"user\", \"content\": \"$quoted\"}], \"temperature\": 0, \"max_tokens\": 128}"
echo
# As it is written: server-sent events, the last one is `data: [DONE]`.
ask --no-buffer <<<"{\"messages\": [{\"role\": \"user\", \"content\": \"$quoted\"}], \"max_tokens\": 32, \"stream\": true}"
