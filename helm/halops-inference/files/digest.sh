# Compares a file's SHA-256. usage: digest.sh FILE SHA256
set -uo pipefail
[[ -f $1 ]] || { echo "no file $1: check model.file"; exit 3; }
read -r found _ < <(sha256sum "$1")
[[ $found == "$2" ]] || { echo "$1 has the digest $found, not $2: set model.sha256 to the digest of the file you mean"; exit 43; }
