from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from halops.errors import HalopsError, IntegrityError, ModelError, NotFoundError
from halops.models.check import check_adapter_folder, check_folder, check_model_folder, read_weights


def change(path: Path, **values: Any) -> None:
    """Set keys of a JSON file; None takes a key out."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_whole_models_pass(model: Path) -> None:
    dimensions = check_model_folder(model)
    assert (dimensions.hidden_size, dimensions.vocab_size, dimensions.num_hidden_layers) == (32, 64, 2)
    check_folder(model)


def test_shards_pass_and_are_read_together(sharded: Path) -> None:
    check_model_folder(sharded)
    assert len(read_weights(sharded)) == 20


def test_an_adapter_passes(adapter: Path) -> None:
    check_adapter_folder(adapter)
    check_folder(adapter)


def cut(name: str) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])

    return act


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: change(folder / "config.json", **values)


def write(name: str, data: bytes) -> Callable[[Path], None]:
    def act(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return act


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (remove("config.json"), NotFoundError, "no config.json"),
        (write("config.json", b"{"), ModelError, "not valid JSON"),
        (write("config.json", b"[]"), ModelError, "expected a mapping"),
        (config(model_type="mixtral", architectures=["MixtralForCausalLM"]), ModelError, "MixtralForCausalLM"),
        (config(model_type="llama", architectures=["LlamaForSequenceClassification"]), ModelError, "Classification"),
        (config(model_type=None, architectures=None), ModelError, "supported are"),
        (config(model_type="x", architectures=["X"], auto_map={"AutoModel": "x.X"}), ModelError, "own folder"),
        (config(quantization_config={"quant_method": "gptq"}), ModelError, "quantized already gptq"),
        (config(hidden_size=None, vocab_size="many"), ModelError, "vocab_size: expected"),
        (config(hidden_size=None, vocab_size="many"), ModelError, "hidden_size: missing"),
        (config(vocab_size=65), IntegrityError, "should have the shape (65, 32)"),
        (config(num_hidden_layers=3), IntegrityError, "layer 2 has no tensors"),
        (remove("model.safetensors"), NotFoundError, "no model.safetensors"),
        (cut("model.safetensors"), IntegrityError, "bytes of tensors"),
        (remove("tokenizer.json"), ModelError, "no tokenizer.json"),
        (write("tokenizer.json", b'{"a"'), IntegrityError, "not valid JSON"),
        (write("tokenizer.model", pickle.dumps({})), ModelError, "tokenizer.model is a pickle"),
        (write("training_args.bin", b"PK\x03\x04"), ModelError, "training_args.bin is a zip"),
    ],
)
def test_unusable_models(model: Path, damage: Callable[[Path], None], error: type[HalopsError], says: str) -> None:
    damage(model)
    with pytest.raises(error) as caught:
        check_model_folder(model)
    assert says in str(caught.value)
    assert str(model) in str(caught.value)


def test_code_that_is_not_needed_does_no_harm(model: Path) -> None:
    """Phi-3 brings code for old versions; its kind is known without."""
    change(model / "config.json", auto_map={"AutoConfig": "configuration.X"})
    check_model_folder(model)


SHARD = "model-00002-of-00002.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (remove(SHARD), IntegrityError, f"the shard {SHARD} is missing"),
        (cut(SHARD), IntegrityError, SHARD),
        (write(INDEX, b"{}"), IntegrityError, "no weight_map"),
        (write(INDEX, b""), IntegrityError, "not valid JSON"),
        (write(INDEX, b'{"weight_map": {"a": "../x"}}'), ModelError, "outside its folder"),
        (write(INDEX, b'{"weight_map": {"a": "%s"}}' % SHARD.encode()), IntegrityError, "lacks the tensor a"),
    ],
)
def test_unusable_shards(sharded: Path, damage: Callable[[Path], None], error: type[HalopsError], says: str) -> None:
    damage(sharded)
    with pytest.raises(error) as caught:
        check_model_folder(sharded)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("damage", "error", "says"),
    [
        (remove("adapter_model.safetensors"), NotFoundError, "no adapter_model.safetensors"),
        (cut("adapter_model.safetensors"), IntegrityError, "bytes of tensors"),
        (write("adapter_config.json", b'{"peft_type": "IA3"}'), ModelError, "'IA3', not LORA"),
        (write("adapter_model.bin", b"\x80\x02"), ModelError, "is a pickle"),
    ],
)
def test_unusable_adapters(adapter: Path, damage: Callable[[Path], None], error: type[HalopsError], says: str) -> None:
    damage(adapter)
    with pytest.raises(error) as caught:
        check_folder(adapter)
    assert says in str(caught.value)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such model folder"):
        check_model_folder(tmp_path / "none")
