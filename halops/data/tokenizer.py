"""A model folder's tokenizer: tokenizer.json as it is, and what the other files say about its special tokens."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halops.chat_template import CHATML, choose, serving_template
from halops.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
# Vocabularies for which llama.cpp's converter switches the leading BOS off, whatever the tokenizer says.
NO_BOS_VOCABULARIES = (49152,)


class ChatTokenizer:
    """Text to token ids, special tokens included, none added.

    Args:
        folder: a Hugging Face model folder: tokenizer.json, and beside it tokenizer_config.json, config.json,
            generation_config.json, special_tokens_map.json where they exist.

    Raises:
        ModelError: no tokenizer.json, or one that can't be read.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        self.folder = folder
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ModelError(
                "the model has no tokenizer.json",
                where=str(folder),
                remedy="write one with transformers: AutoTokenizer.from_pretrained(MODEL).save_pretrained(MODEL)",
            )
        try:
            self._json = json.loads(path.read_bytes())
            self._tokenizer = Tokenizer.from_str(json.dumps(self._json))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"can't read the tokenizer: {error}", where=str(path)) from error
        self._tokenizer.no_truncation()  # some files carry a length limit or padding from their own training
        self._tokenizer.no_padding()
        self._config = _read_json(folder / "tokenizer_config.json")

    def encode(self, texts: list[str]) -> list[Encoding]:
        """Encodings of whole rendered chats; offsets are in characters of the text."""
        return self._tokenizer.encode_batch(texts, add_special_tokens=False)

    def token_id(self, text: str) -> int | None:
        """Id of a token by its text."""
        found: int | None = self._tokenizer.token_to_id(text)
        return found

    @cached_property
    def special(self) -> tuple[str, ...]:
        """Texts that are read as control tokens wherever they stand, longest first."""
        tokens = [token for token in self._json.get("added_tokens", []) if token.get("special")]
        return tuple(sorted({token["content"] for token in tokens if token["content"].strip()}, key=_longest_first))

    @cached_property
    def bos(self) -> str:
        """Text of the BOS token, or nothing."""
        return self._named("bos_token")

    @cached_property
    def eos(self) -> str:
        """Text of the EOS token, or nothing."""
        return self._named("eos_token")

    @cached_property
    def ends(self) -> frozenset[str]:
        """Texts of the special tokens at which generation stops, by the model's own files."""
        ids: set[int] = set()
        for name in ("config.json", "generation_config.json"):
            value = _read_json(self.folder / name).get("eos_token_id")
            ids.update(value if isinstance(value, list) else [] if value is None else [value])
        texts = {self._tokenizer.id_to_token(number) for number in ids} | {self.eos}
        return frozenset(text for text in texts if text in self.special)

    @cached_property
    def normalises_unicode(self) -> bool:
        """Whether text is brought to NFC first, which llama-server doesn't do."""
        return '"NFC"' in json.dumps(self._json.get("normalizer"))

    @cached_property
    def adds_bos(self) -> bool:
        """Whether llama-server begins each prompt with BOS: what llama.cpp's converter reads from the same files."""
        if self._config_json.get("vocab_size") in NO_BOS_VOCABULARIES or not self.bos:
            return False
        found = self._processor_adds_bos()
        if found is None:
            found = self._config.get("add_bos_token")
        if found is None:  # SentencePiece kinds have one by default
            model = self._json.get("model", {})
            found = model.get("type") == "Unigram" or bool(model.get("byte_fallback"))
        return bool(found)

    @cached_property
    def template(self) -> str:
        """The model's own chat template; ChatML if it has none but has ChatML's tokens.

        Raises ModelError if there is no telling how the model chats.
        """
        given = self._template_files()
        if isinstance(given, list):
            named = {str(item.get("name")): str(item.get("template")) for item in given if isinstance(item, dict)}
            default = named.get("default") or next(iter(named.values()), None)
            tools = named.get("tool_use")
            given = choose(default, with_tools=tools) if default and tools and tools != default else default
        if isinstance(given, str) and given.strip():
            return given
        if all(self.token_id(token) is not None for token in CHATML_TOKENS):
            return CHATML
        raise ModelError(
            "the model has no chat template",
            where=str(self.folder),
            remedy="start from an instruct model, or put a chat_template.jinja into the model's folder",
        )

    def serving_template(self, *, own: bool = False) -> str:
        """The template to train and serve with; `own` keeps a ChatML model's own. Raises ModelError."""
        return serving_template(self.template, adds_bos=self.adds_bos, own=own)

    @cached_property
    def _config_json(self) -> dict[str, Any]:
        return _read_json(self.folder / "config.json")

    def _template_files(self) -> Any:
        jinja = self.folder / "chat_template.jinja"
        with_tools = self.folder / "additional_chat_templates" / "tool_use.jinja"
        if jinja.is_file() and with_tools.is_file():
            files = {"default": jinja, "tool_use": with_tools}
            return [{"name": name, "template": _read_text(path)} for name, path in files.items()]
        if jinja.is_file():
            return _read_text(jinja)
        return self._config.get("chat_template") or _read_json(self.folder / "chat_template.json").get("chat_template")

    def _named(self, name: str) -> str:
        value = self._config.get(name) or _read_json(self.folder / "special_tokens_map.json").get(name) or ""
        return str(value.get("content", "")) if isinstance(value, dict) else str(value)

    def _processor_adds_bos(self) -> bool | None:
        """What tokenizer.json's post-processor says; None if it says nothing."""
        processor = self._json.get("post_processor") or {}
        found = None
        for item in processor.get("processors", [processor]):
            if item.get("type") == "ByteLevel":
                found = bool(found)
            elif item.get("type") == "TemplateProcessing" and len(single := item.get("single", [])) > 1:
                first = single[0].get("SpecialToken", {}).get("id")
                found = bool(found) if first is None else first == self.bos
        return found


def _longest_first(text: str) -> tuple[int, str]:
    return -len(text), text


def _read_text(path: Path) -> str:
    """Raises ModelError if it isn't UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ModelError("not a UTF-8 text file", where=f"{path}: byte {error.start}") from error


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if there is no such file. Raises ModelError if it isn't JSON."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"not valid JSON: {error}", where=str(path)) from error
    return value if isinstance(value, dict) else {}
