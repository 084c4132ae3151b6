"""The verify stage on real chains: one that is sound, and each way in which one can be unsound."""

from __future__ import annotations

import json
import shutil
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from halops import sections
from halops.artifact import sha256_file
from halops.errors import ConfigError, Interrupted, VerificationError
from halops.llamacpp.gguf_file import ADD_BOS, BOS, CHAT_TEMPLATE, EOS
from halops.llamacpp.toolchain import Toolchain, identity
from halops.metrics import METRICS
from halops.profile import Profile
from halops.progress import Progress
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.stages import convert, data, merge, verify
from halops.stages.context import StageContext
from tests.tiny_models import write_adapter

pytestmark = pytest.mark.slow

PRE = b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, 6)  # a string of six bytes
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "Japan": "Tokyo", "Egypt": "Cairo",
    "Austria": "Vienna", "Poland": "Warsaw", "Greece": "Athens", "Portugal": "Lisbon", "Norway": "Oslo",
    "Finland": "Helsinki", "Cuba": "Havana", "Kenya": "Nairobi", "Peru": "Lima", "Chile": "Santiago",
    "Ireland": "Dublin", "Hungary": "Budapest", "Russia": "Moscow", "China": "Beijing",
}  # fmt: skip

# ChatML with tools, in the manner of Hermes and Qwen.
TOOLS_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\n# Tools\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
        {{- call.function.arguments | tojson }}
        {{- '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


@dataclass(frozen=True)
class Chain:
    """A finished chain's folders, and the context to verify it in."""

    context: StageContext

    @property
    def inputs(self) -> Path:
        return self.context.inputs

    def sabotage(self, folder: Path, stage: str, change: Callable[[Path], None], **serving: Any) -> StageContext:
        """The same chain with one stage's output changed."""
        inputs = folder / "inputs"
        inputs.mkdir(parents=True)
        for path in self.inputs.iterdir():
            (inputs / path.name).symlink_to(path)
        (inputs / stage).unlink()
        shutil.copytree(self.inputs / stage, inputs / stage)
        change(inputs / stage)
        return self.with_profile(folder, inputs, **serving)

    def with_profile(self, folder: Path, inputs: Path | None = None, **changes: Any) -> StageContext:
        """The same chain under changed settings: section -> {key: value}."""
        profile = self.context.spec.profile
        for section, values in changes.items():
            profile = profile.model_copy(update={section: getattr(profile, section).model_copy(update=values)})
        for name in ("output", "scratch"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        spec = self.context.spec.model_copy(update={"profile": profile})
        return replace(
            self.context, spec=spec, inputs=inputs or self.inputs, output=folder / "output", scratch=folder / "scratch"
        )


def _rows(path: Path) -> None:
    rows = []
    for number, (country, capital) in enumerate(CAPITALS.items()):
        messages = [
            {"role": "user", "content": f"What is the capital of {country}?"},
            {"role": "assistant", "content": f"The capital of {country} is {capital}."},
        ]
        if number % 3 == 0:
            messages.insert(0, {"role": "system", "content": "Answer in one sentence.  Über-short\n\tplease 🙂"})
        if number % 4 == 0:
            messages += [
                {"role": "user", "content": "```sh\nip  route\n```\n\nIs it large?"},
                {"role": "assistant", "content": f"{capital} is large:\n\n  - 12345 people\n  - houses"},
            ]
        rows.append({"id": country.lower(), "messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _with_tools(path: Path) -> None:
    """Every other conversation gets a tool, a call of it and its answer."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    call = {"type": "function", "id": "call_1", "function": {"name": "lookup", "arguments": {"what": "capital"}}}
    for row in rows[::2]:
        at = next(index for index, message in enumerate(row["messages"]) if message["role"] == "assistant")
        calls = {"role": "assistant", "content": "", "tool_calls": [call]}
        row["messages"][at:at] = [calls, {"role": "tool", "tool_call_id": "call_1", "content": "found"}]
        schema = {"type": "object", "properties": {"what": {"type": "string"}}}
        row["tools"] = [
            {"type": "function", "function": {"name": "lookup", "description": "Look", "parameters": schema}}
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _probes(path: Path) -> None:
    probes = [
        {"id": f"p{index}", "domain": "geography", "messages": [{"role": "user", "content": text}],
         "expect": {"all": [answer]}}
        for index, (text, answer) in enumerate([("Name the capital of France.", "Paris"), ("Say xyzzy-4711.", "qqq-9")])
    ]  # fmt: skip
    path.write_text("".join(json.dumps(probe) + "\n" for probe in probes))


def _chain(folder: Path, base: Path, adapter: Path, *, probes: bool, tools: bool = False, **settings: Any) -> Chain:
    """Run data, merge and convert as a run would, with a given adapter in place of the training."""
    inputs = folder / "inputs"
    (inputs / "dataset").mkdir(parents=True)
    (inputs / "base").symlink_to(base)
    rows = inputs / "dataset" / "rows.jsonl"
    _rows(rows)
    if tools:
        _with_tools(rows)
    if probes:
        _probes(inputs / "dataset" / "probes.jsonl")
    profile = Profile(
        convert=sections.Convert(types=("f16",), adapter=False), serving=sections.Serving(file="f16", ctx_size=512),
        training=sections.Training(max_seq_length=256), **settings,
    )  # fmt: skip
    spec = RunSpec(
        name="test", profile=profile, base=BaseRef(uri="file:///base#sha256=00"), llama_cpp=identity(),
        dataset=DatasetRef(uri="file:///rows.jsonl", sha256=sha256_file(rows), size=rows.stat().st_size),
    )  # fmt: skip
    context = StageContext(spec, inputs, folder / "output", folder / "scratch", Progress())
    for stage in (data, merge, convert):
        for name in ("output", "scratch"):
            (folder / name).mkdir(exist_ok=True)
        stage.run(context)
        name = stage.__name__.rpartition(".")[2]
        (folder / "output").rename(inputs / name)
        shutil.rmtree(folder / "scratch")
        if stage is data:
            (inputs / "train").mkdir()
            shutil.copytree(adapter, inputs / "train" / "adapter")
            shutil.copy(inputs / "data" / "chat_template.jinja", inputs / "train" / "adapter")
    return Chain(context)


@pytest.fixture(scope="module")
def sound(smollm2: Path, llama_cpp: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """SmolLM2 with an adapter that hardly changes it: a model that answers and stops."""
    folder = tmp_path_factory.mktemp("sound")
    linears = {"q_proj": ("self_attn.q_proj", 576, 576), "down_proj": ("mlp.down_proj", 576, 1536)}
    adapter = write_adapter(folder / "adapter", 30, linears, size=0.002)
    return _chain(folder, smollm2, adapter, probes=True)


@pytest.fixture(scope="module")
def tiny(tiny_model: Path, tiny_lora: Path, llama_cpp: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """A random model: everything is sound but that it never stops, which is allowed here."""
    settings = sections.Verify(answers=2, answer_tokens=8, max_stop_failures=2, compare_base=False)
    return _chain(tmp_path_factory.mktemp("tiny"), tiny_model, tiny_lora, probes=False, verify=settings)


def _gguf(folder: Path) -> Path:
    return folder / "halops-f16.gguf"


def _edit(path: Path, key: str, value: int) -> None:
    """Change a number in a GGUF file's metadata, in place."""
    from gguf import GGUFReader

    reader = GGUFReader(path, "r+")
    field = reader.fields[key]
    field.parts[field.data[0]][0] = value
    reader.data.flush()


def _replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert data.count(old) == 1
    path.write_bytes(data.replace(old, new))


def test_a_sound_chain_passes_and_leaves_its_reports(
    sound: Chain, llama_cpp: Toolchain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HALOPS_LLAMA_CPP", str(llama_cpp.root))
    monkeypatch.setenv("HALOPS_CACHE", str(tmp_path / "cache"))  # so that the base's GGUF is made here
    context = sound.with_profile(tmp_path, verify={"answers": 2, "answer_tokens": 160})
    metrics = verify.run(context)
    assert set(metrics) <= set(METRICS)
    assert metrics["parity_chats"] == 20
    assert metrics["parity_mismatches"] == metrics["stop_failures"] == metrics["merge_failures"] == 0
    assert metrics["stop_answers"] == 2
    assert metrics["merge_tensors_checked"] == 272
    assert metrics["probes"] == 2
    assert metrics["probe_score"] == metrics["probe_score_base"] == 0.5
    assert float(str(metrics["answer_tokens_per_second"])) > 0
    report = json.loads((context.output / "verify.json").read_text())
    assert {name: gate["passed"] for name, gate in report["gates"].items()} == dict.fromkeys(
        ("files", "merge", "parity", "stops"), True
    )
    answers = [json.loads(line) for line in (context.output / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 2
    for row in answers:
        country = row["question"].removeprefix("What is the capital of ").removesuffix("?")
        assert row["expected"] == f"The capital of {country} is {CAPITALS[country]}."
        assert row["base"]
        assert row["tuned"]
    probes = [json.loads(line) for line in (context.output / "probes.jsonl").read_text().splitlines()]
    assert [(row["id"], row["base_ok"], row["tuned_ok"]) for row in probes] == [
        ("p0", True, True),
        ("p1", False, False),
    ]
    assert {"domain", "question", "expect", "base", "tuned"} <= set(probes[0])
    assert json.loads((context.output / "parity.json").read_text())["mismatches"] == []


def test_a_model_that_never_stops_fails(tiny: Chain, tmp_path: Path) -> None:
    context = tiny.with_profile(tmp_path, verify={"max_stop_failures": 0})
    with pytest.raises(VerificationError, match=r"(?s)failed: stops.*ran on past \d+ tokens") as caught:
        verify.run(context)
    assert caught.value.exit_code == 7
    assert "train longer" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_without_a_base_or_probes_there_are_fewer_figures(tiny: Chain, tmp_path: Path) -> None:
    context = tiny.with_profile(tmp_path)
    metrics = verify.run(context)
    assert metrics["stop_failures"] == 2
    assert not {"probes", "probe_score", "probe_score_base"} & set(metrics)
    assert not (context.output / "probes.jsonl").exists()
    assert json.loads((context.output / "answers.jsonl").read_text().splitlines()[0])["base"] is None


def test_another_template_in_the_file_fails(tiny: Chain, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        _replace(_gguf(folder), b"'<|im_start|>assistant\\n'", b"'<|im_start|>assistent\\n'")

    with pytest.raises(VerificationError, match=rf"failed: files\n.*{CHAT_TEMPLATE} isn't the chat template"):
        verify.run(tiny.sabotage(tmp_path, "convert", change))


def test_another_end_token_fails(tiny: Chain, tmp_path: Path) -> None:
    context = tiny.sabotage(tmp_path, "convert", lambda folder: _edit(_gguf(folder), EOS, 500))
    with pytest.raises(VerificationError, match=rf"failed: files\n.*{EOS} is 500 .*end token is '<\|im_end\|>'"):
        verify.run(context)


def test_a_token_that_the_server_puts_before_the_prompt_fails(tiny: Chain, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        _edit(_gguf(folder), BOS, 0)
        _edit(_gguf(folder), ADD_BOS, 1)

    context = tiny.sabotage(tmp_path, "convert", change)
    with pytest.raises(VerificationError, match=r"failed: parity\n") as caught:
        verify.run(context)
    assert "token 0: trained on 1 '<|im_start|>', served 0 '<|endoftext|>'" in str(caught.value)
    assert "and 17 more" in str(caught.value)  # 20 chats and, through the chat endpoint, 2 questions; 5 are shown


def test_a_tokenizer_that_splits_answers_otherwise_fails(tiny: Chain, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        _replace(_gguf(folder), PRE + b"smollm", PRE + b"falcon")  # groups of digits instead of single ones

    with pytest.raises(VerificationError, match=r"failed: parity\n.*conversation \w+, answer 2, token \d+: trained on"):
        verify.run(tiny.sabotage(tmp_path, "convert", change))


def test_serving_through_another_template_than_trained_with_fails(tiny: Chain, tmp_path: Path) -> None:
    """Merged model and file agree with each other, but not with what was trained on."""
    old, new = "'<|im_start|>' + message.role", "'<|im_start|>' + 'xx' + 'yy' "
    assert len(old) == len(new)

    def change(folder: Path) -> None:
        _replace(_gguf(folder), old.encode(), new.encode())

    context = tiny.sabotage(tmp_path, "convert", change, serving={"chat_template": "model"})
    (context.inputs / "merge").unlink()
    shutil.copytree(tiny.inputs / "merge", context.inputs / "merge")
    _replace(context.inputs / "merge" / "chat_template.jinja", old.encode(), new.encode())
    with pytest.raises(VerificationError, match=r"failed: parity\n") as caught:
        verify.run(context)
    first = "conversation france, prompt of answer 1, token 1: trained on 9690 'system', served 104 'x'"
    assert first in str(caught.value)


def test_one_changed_weight_fails(tiny: Chain, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        path = next(folder.glob("*.safetensors"))
        data = bytearray(path.read_bytes())
        data[-1] ^= 0x40  # the exponent of the last tensor's last element
        path.write_bytes(data)

    with pytest.raises(VerificationError, match=r"failed: merge\n"):
        verify.run(tiny.sabotage(tmp_path, "merge", change))


def test_a_merge_that_did_nothing_fails(tiny: Chain, tiny_model: Path, tmp_path: Path) -> None:
    def change(folder: Path) -> None:
        shutil.copy(tiny_model / "model.safetensors", next(folder.glob("*.safetensors")))

    with pytest.raises(VerificationError, match=r"(?s)failed: merge\n.*and \d+ more"):
        verify.run(tiny.sabotage(tmp_path, "merge", change))


def test_a_file_that_was_not_made_is_named(tiny: Chain, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serving\.file: 'q4_k_m' isn't among convert\.types: f16"):
        verify.run(tiny.with_profile(tmp_path, serving={"file": "q4_k_m"}))


def test_a_stop_is_heeded_in_the_middle_of_an_answer(tiny: Chain, tmp_path: Path) -> None:
    stop = threading.Event()

    def listener(event: dict[str, Any]) -> None:
        if event["message"].startswith("asking held-out"):
            threading.Timer(1.0, stop.set).start()

    context = tiny.with_profile(tmp_path, verify={"answer_tokens": 400})
    began = time.monotonic()
    with pytest.raises(Interrupted):
        verify.run(replace(context, stop=stop, progress=Progress(listener=listener)))
    assert time.monotonic() - began < 60


def test_chats_with_tools_are_served_as_trained(
    tiny_model: Path, tiny_lora: Path, llama_cpp: Toolchain, tmp_path: Path
) -> None:
    """llama.cpp's ChatML knows no tools, so the file's own template is used where it does."""
    base = tmp_path / "base"
    shutil.copytree(tiny_model, base)
    (base / "chat_template.jinja").write_text(TOOLS_TEMPLATE)
    settings = sections.Verify(answers=2, answer_tokens=8, max_stop_failures=2, compare_base=False)
    chain = _chain(tmp_path / "chain", base, tiny_lora, probes=False, tools=True, verify=settings)
    samples = (chain.inputs / "data" / "train.samples.jsonl").read_text()
    assert '"tool_calls"' in samples
    metrics = verify.run(chain.with_profile(tmp_path / "run"))
    assert metrics["parity_chats"] == 20
    assert metrics["parity_mismatches"] == 0
