# `helm test`: as a client, through the Service. Without a key 401, with it an answer.
set -uo pipefail
. "${BASH_SOURCE%/*}/http.sh"

secret=$(key)
if [[ -n $secret ]]; then
  chat "" 1
  [[ $status == 401 ]] || { echo "without a key: $status, expected 401"; exit 1; }
  echo "without a key: 401"
fi
chat "$secret" 16
[[ $status == 200 && $body == *'"choices"'* ]] || { echo "with the key: $status $body"; exit 1; }
echo "with the key: 200 $body"
request "$secret" GET /slots
[[ $status != 200 ]] || { echo "/slots answers"; exit 1; }
echo "/slots: $status"
