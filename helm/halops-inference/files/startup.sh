# Startup probe: the model is loaded, its layers are where they should be, and it answers. What it says is in the pod's events.
set -uo pipefail
. "${BASH_SOURCE%/*}/http.sh" 

request "" GET /health 2>/dev/null
[[ $status == 200 ]] || { echo "the model isn't loaded yet (/health: $status)"; exit 1; }

# llama-server says it in its log alone. A build without a GPU backend says nothing.
found=0
while read -r line; do
  [[ $line =~ offloaded\ ([0-9]+)/([0-9]+)\ layers\ to\ GPU ]] && { found=${BASH_REMATCH[1]}; break; }
done <"$log"
if [[ $found != "$HALOPS_LAYERS" ]]; then
  echo "$found layers are on the GPU, $HALOPS_LAYERS are expected: check the image (cuda?), the node's driver, gpu.layers and gpu.expectedLayers"
  exit 1
fi

chat "$(key)" 1
[[ $status == 200 ]] || { echo "a completion of one token ended with $status: $body"; exit 1; }
