"""The chart's values for a GGUF file: `python -m halops.serving.describe FILE` prints them as YAML.

Size and digest are of its bytes, dimensions from its header; they are what the chart's memory check and probes go by.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from halops.artifact import sha256_file
from halops.errors import HalopsError, IntegrityError
from halops.llamacpp.gguf_file import TOKENS, read_metadata


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m halops.serving.describe", description=(__doc__ or "").split(":")[0]
    )
    parser.add_argument("file", type=Path, help="a GGUF file")
    try:
        print(yaml.safe_dump({"model": describe(parser.parse_args(argv).file)}, sort_keys=False), end="")
    except HalopsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def describe(path: Path) -> dict[str, Any]:
    """sha256, bytes and dimensions. Raises NotFoundError or IntegrityError."""
    found = dimensions(read_metadata(path), path)
    return {"sha256": sha256_file(path), "bytes": path.stat().st_size, "dimensions": found}


def dimensions(metadata: dict[str, Any], path: Path) -> dict[str, int]:
    """What KV cache and buffers are reckoned from. Raises IntegrityError where the header doesn't have it."""
    kind = metadata.get("general.architecture")

    def number(name: str) -> int:
        value = metadata.get(f"{kind}.{name}")
        if not isinstance(value, int):
            raise IntegrityError(f"its header has no {kind}.{name}", where=str(path), remedy="write the values by hand")
        return value

    heads = number("attention.head_count")
    given = metadata.get(f"{kind}.attention.key_length")
    return {
        "layers": number("block_count"),
        "kvHeads": metadata.get(f"{kind}.attention.head_count_kv") or heads,
        "headDim": given if isinstance(given, int) else number("embedding_length") // heads,
        "vocabulary": int(metadata.get(TOKENS) or 0),
    }


if __name__ == "__main__":
    sys.exit(main())
