"""The convert stage with the real converter and quantizer, on a small random model."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from halops import sections
from halops.errors import HostError, Interrupted, ModelError, StageError, VerificationError
from halops.llamacpp import convert as converting
from halops.llamacpp.convert import Converter, base_gguf
from halops.llamacpp.gguf_file import ADD_BOS, CHAT_TEMPLATE, EOS, read_metadata
from halops.llamacpp.toolchain import Toolchain, identity
from halops.profile import Profile
from halops.progress import Progress
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.stages import adapter_gguf as adapter_gguf_stage
from halops.stages import base_gguf as base_gguf_stage
from halops.stages import convert
from halops.stages.context import StageContext

pytestmark = pytest.mark.slow
F16, Q4_K_M, Q5_K_M, BF16 = 1, 15, 17, 32  # general.file_type: enum llama_ftype in llama.h


def _profile(settings: sections.Convert) -> Profile:
    return Profile(convert=settings, serving=sections.Serving(file=settings.types[0]))


def _context(folder: Path, model: Path, lora: Path, **settings: Any) -> tuple[StageContext, list[dict[str, Any]]]:
    inputs = folder / "inputs"
    (inputs / "train").mkdir(parents=True)
    (inputs / "merge").symlink_to(model)
    (inputs / "base").symlink_to(model)
    (inputs / "train" / "adapter").symlink_to(lora)
    for name in ("output", "scratch"):
        (folder / name).mkdir()
    spec = RunSpec(
        name="test", profile=_profile(sections.Convert(**settings)), base=BaseRef(uri="file:///base#sha256=00"),
        dataset=DatasetRef(uri="file:///rows.jsonl", sha256="0" * 64, size=1), llama_cpp=identity(),
    )  # fmt: skip
    events: list[dict[str, Any]] = []
    context = StageContext(spec, inputs, folder / "output", folder / "scratch", Progress(listener=events.append))
    return context, events


class _Recorder:
    """A proxy that only counts who calls: nobody should."""

    def __init__(self) -> None:
        self.calls: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                self.calls.append(connection.recv(100))


def test_the_default_files(
    llama_cpp: Toolchain, tiny_model: Path, tiny_lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = _Recorder()
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    context, events = _context(tmp_path, tiny_model, tiny_lora)
    metrics = convert.run(context)
    files = {path.name: path for path in context.output.iterdir()}
    assert set(files) == {"halops-f16.gguf", "halops-q4_k_m.gguf", "halops-q5_k_m.gguf", "halops-adapter-f16.gguf"}
    assert metrics == {"gguf_files": 4, "bytes_written": sum(path.stat().st_size for path in files.values())}
    types = {"halops-f16.gguf": F16, "halops-q4_k_m.gguf": Q4_K_M, "halops-q5_k_m.gguf": Q5_K_M}
    template = (tiny_model / "chat_template.jinja").read_text()
    for name, kind in types.items():
        found = read_metadata(files[name])
        assert found["general.file_type"] == kind
        assert found["general.name"] == "halops"
        assert found[CHAT_TEMPLATE] == template
        assert found[EOS] == 2
        assert found[ADD_BOS] is False
    assert read_metadata(files["halops-adapter-f16.gguf"])["general.type"] == "adapter"
    assert proxy.calls == []
    whole = {event["message"] for event in events if event.get("done") == event.get("total")}
    assert {"writing halops-f16.gguf", "quantizing to q4_k_m", "quantizing to q5_k_m"} <= whole


def test_what_deploy_fast_serves_is_the_base_and_the_adapter(
    llama_cpp: Toolchain, tiny_model: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    for stage in (base_gguf_stage, adapter_gguf_stage):
        context, _ = _context(tmp_path / stage.__name__, tiny_model, tiny_lora, types=("q4_k_m",))
        assert stage.run(context)["gguf_files"] == 1
    base = tmp_path / base_gguf_stage.__name__ / "output" / "base-q4_k_m.gguf"
    adapter = tmp_path / adapter_gguf_stage.__name__ / "output" / "halops-adapter-f16.gguf"
    assert read_metadata(base)["general.file_type"] == Q4_K_M
    assert read_metadata(adapter)["general.type"] == "adapter"


def test_what_is_not_asked_for_is_not_kept(
    llama_cpp: Toolchain, tiny_model: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    context, _ = _context(tmp_path, tiny_model, tiny_lora, name="ops", types=("Q8_0",), adapter=False)
    assert convert.run(context)["gguf_files"] == 1
    assert [path.name for path in context.output.iterdir()] == ["ops-q8_0.gguf"]


def test_a_bfloat16_model_is_not_squeezed_into_float16(
    llama_cpp: Toolchain, tiny_model: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    _to_bfloat16(model / "model.safetensors")
    context, _ = _context(tmp_path / "run", model, tiny_lora, types=("bf16", "q4_k_m"), adapter=False)
    convert.run(context)
    assert read_metadata(context.output / "halops-bf16.gguf")["general.file_type"] == BF16
    assert {path.name for path in context.scratch.iterdir()} == {"convert.log"}


def test_a_pickle_is_refused(llama_cpp: Toolchain, tiny_model: Path, tiny_lora: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    context, _ = _context(tmp_path / "run", model, tiny_lora)
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        convert.run(context)


def test_a_model_that_the_converter_does_not_know(
    llama_cpp: Toolchain, tiny_model: Path, tiny_lora: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    config = json.loads((model / "config.json").read_text()) | {"architectures": ["NobodyForCausalLM"]}
    (model / "config.json").write_text(json.dumps(config))
    context, _ = _context(tmp_path / "run", model, tiny_lora)
    with pytest.raises(StageError, match=r"(?s)writing halops-f16\.gguf failed with exit code 1.*NobodyForCausalLM"):
        convert.run(context)
    assert list(context.output.iterdir()) == []


def test_a_template_that_got_lost_is_noticed(tiny_gguf: Path, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("{{ other }}")
    with pytest.raises(VerificationError, match="isn't the model's"):
        converting.check_template(tiny_gguf, tmp_path)
    converting.check_template(tiny_gguf, tiny_model)


def test_a_disk_too_small_is_refused_beforehand(
    llama_cpp: Toolchain, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "SPARE", 10**18)
    with pytest.raises(HostError, match=r"writing x\.gguf needs .* GB of disk"):
        Converter(llama_cpp, tmp_path / "log").convert_hf(tiny_model, tmp_path / "x.gguf", "f16", name="x")
    assert list(tmp_path.iterdir()) == []


def test_a_stop_ends_the_converter(llama_cpp: Toolchain, tiny_model: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    with pytest.raises(Interrupted):
        Converter(llama_cpp, tmp_path / "log", stop=stop).convert_hf(tiny_model, tmp_path / "x.gguf", "f16", name="x")
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_killed_conversion_leaves_nothing_that_counts(llama_cpp: Toolchain, tiny_model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = f"""
from pathlib import Path
from halops.llamacpp.convert import Converter, base_gguf
from halops.llamacpp.toolchain import Toolchain
tools = Toolchain(Path({str(llama_cpp.root)!r}), {llama_cpp.identity!r})
base_gguf(Path({str(tiny_model)!r}), "0123", Converter(tools, Path({str(tmp_path / "log")!r})))
"""
    environment = os.environ | {"HALOPS_CACHE": str(cache)}
    running = subprocess.Popen([sys.executable, "-c", code], env=environment)
    for _ in range(2000):
        if list(cache.rglob("*.part")) or running.poll() is not None:
            break
        time.sleep(0.01)
    os.kill(running.pid, signal.SIGKILL)
    running.wait()
    assert not list(cache.rglob("*.gguf"))


def test_the_bases_file_is_made_once(
    llama_cpp: Toolchain, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path / "cache"))
    events: list[dict[str, Any]] = []
    converter = Converter(llama_cpp, tmp_path / "log", Progress(listener=events.append))
    first = base_gguf(tiny_model, "0123456789abcdef", converter)
    assert read_metadata(first)["general.file_type"] == F16
    events.clear()
    assert base_gguf(tiny_model, "0123456789abcdef", converter) == first
    assert events == []
    assert not list(first.parent.glob("*.part"))


def test_each_type_that_is_offered_can_be_made(llama_cpp: Toolchain, tiny_gguf: Path, tmp_path: Path) -> None:
    """And those marked as in need of an importance matrix are refused without one."""
    from halops.llamacpp.filetypes import FILE_TYPES, NEED_IMATRIX

    converter = Converter(llama_cpp, tmp_path / "log")
    sizes = {}
    for kind in FILE_TYPES:
        output = tmp_path / f"{kind}.gguf"
        if kind in NEED_IMATRIX:
            with pytest.raises(StageError, match=r"(?i)importance matrix|imatrix"):
                converter.quantize(tiny_gguf, output, kind)
        else:
            converter.quantize(tiny_gguf, output, kind)
            sizes[kind] = output.stat().st_size
            output.unlink()
    assert sizes["q4_k_m"] < sizes["q5_k_m"] < sizes["q8_0"] < sizes["f16"] < sizes["f32"]


def _to_bfloat16(path: Path) -> None:
    """Rewrite a float16 safetensors file with the same values in bfloat16, rounded toward zero."""
    import numpy as np
    from safetensors.numpy import load_file

    tensors = load_file(path)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs, at = [], 0
    for name, tensor in tensors.items():
        blob = (tensor.astype(np.float32).view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(blobs))
