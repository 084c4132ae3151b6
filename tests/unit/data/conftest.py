"""Real tokenizers, trained here in a moment.

`gpt2` and `bytes` are byte-level BPE in GPT-2's way and in today's; `sentencepiece` has byte fallback.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halops.data.tokenizer import ChatTokenizer

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|turn|>", "<s>", "</s>", "<|begin_of_text|>", "<|eot_id|>",
           "<|start_header_id|>", "<|end_header_id|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>",
           "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]"]  # fmt: skip
# As Llama 3, Qwen and their like split text; GPT-2's way leaves a run's last newline to the word that follows.
NEWLINES_TOGETHER = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
MakeModel = Callable[..., Path]


def _train(kind: str) -> Any:
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        processors,
        trainers,
    )

    text = [path.read_text() for path in sorted(Path(__file__).parent.glob("test_*.py"))]
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL]
    if kind in ("gpt2", "bytes"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        if kind == "bytes":
            tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
                pre_tokenizers.Split(Regex(NEWLINES_TOGETHER), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ])  # fmt: skip
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        alphabet = []
        special += [AddedToken("<unk>", special=True, normalized=False)]
        special += [AddedToken(f"<0x{byte:02X}>", normalized=False) for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=1500, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


@pytest.fixture(scope="session")
def tokenizer_json() -> dict[str, str]:
    """tokenizer.json of each kind."""
    sentencepiece = json.loads(_train("sentencepiece").to_str())
    # A SentencePiece model has its bytes as pieces of the vocabulary, not as added tokens.
    sentencepiece["added_tokens"] = [token for token in sentencepiece["added_tokens"] if token["special"]]
    return {
        "gpt2": _train("gpt2").to_str(),
        "bytes": _train("bytes").to_str(),
        "sentencepiece": json.dumps(sentencepiece),
    }


@pytest.fixture
def make_model(tmp_path: Path, tokenizer_json: dict[str, str]) -> MakeModel:
    """A model folder without weights."""

    def make(template: str | None, *, kind: str = "gpt2", name: str = "model", **config: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        (folder / "tokenizer.json").write_text(tokenizer_json[kind])
        config = {"bos_token": "<s>", "eos_token": "<|im_end|>"} | config
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
        (folder / "config.json").write_text(json.dumps({"vocab_size": 1500}))
        if template is not None:
            (folder / "chat_template.jinja").write_text(template)
        return folder

    return make


@pytest.fixture
def make_tokenizer(make_model: MakeModel) -> Callable[..., ChatTokenizer]:
    """A model folder's tokenizer."""
    return lambda *args, **kwargs: ChatTokenizer(make_model(*args, **kwargs))
