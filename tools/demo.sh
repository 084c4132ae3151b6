#!/usr/bin/env bash
# The main job on this machine, by the two commands that a user would type, and what came of it.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.venv/bin:$PATH"
question="lock-vel-03 is down. What do I run first?"

say() { printf '\n$ %s\n' "$*"; }

say halops submit --profile local --wait
halops submit --profile local --wait >/dev/null
say halops chat -m "\"$question\""
halops chat -m "$question"
say halops report --text
halops report --text
