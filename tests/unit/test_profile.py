"""Profiles: shipped ones, classic files, overrides, and errors that name every problem."""

from pathlib import Path

import pytest

from halops.errors import ConfigError, NotFoundError
from halops.profile import load_profile, shipped_profiles

CLASSIC = """
model:
  name: Qwen/Qwen2.5-7B-Instruct
quantization:
  load_in_4bit: true
  bnb_4bit_quant_type: nf4
  bnb_4bit_use_double_quant: true
  bnb_4bit_compute_dtype: bfloat16
lora:
  r: 8
  lora_alpha: 16
  lora_dropout: 0.1
  bias: none
  task_type: CAUSAL_LM
  target_modules: [q_proj, v_proj]
training:
  output_dir: ./out
  num_train_epochs: 2
  per_device_train_batch_size: 2
  gradient_accumulation_steps: 4
  learning_rate: 1e-4
  warmup_ratio: 0.03
  max_seq_length: 2048
  gradient_checkpointing: true
  optim: paged_adamw_8bit
  lr_scheduler_type: linear
  report_to: tensorboard
  eval_strategy: steps
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> str:
        path = tmp_path / "profile.yaml"
        path.write_text(text)
        return str(path)

    return write


def problems_of(*args) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_profile(*args)
    return caught.value.problems


def test_the_shipped_profiles():
    assert shipped_profiles() == ["a100", "local", "rtx8"]


def test_rtx8_is_what_its_documentation_says():
    profile = load_profile("rtx8")
    training, lora = profile.training, profile.lora
    assert (training.num_train_epochs, training.learning_rate, training.warmup_ratio) == (3, 2e-4, 0.1)
    assert (training.per_device_train_batch_size, training.gradient_accumulation_steps) == (1, 8)
    assert (training.max_seq_length, training.optim, training.save_steps) == (1024, "paged_adamw_8bit", 100)
    assert (training.weight_decay, training.lr_scheduler_type, training.save_total_limit) == (0.01, "cosine", 3)
    assert training.bf16
    assert training.gradient_checkpointing
    assert (lora.r, lora.lora_alpha, lora.lora_dropout, lora.bias) == (16, 32, 0.05, "none")
    assert len(lora.target_modules) == 7
    assert profile.quantization.bnb_4bit_quant_type == "nf4"
    assert profile.serving.file == "q4_k_m"
    assert "@" in profile.model.uri


def test_a100_differs_from_rtx8_only_in_batch_length_and_card():
    rtx8, a100 = (load_profile(name).model_dump() for name in ("rtx8", "a100"))
    training = a100["training"]
    assert (training["per_device_train_batch_size"], training["gradient_accumulation_steps"]) == (4, 4)
    assert training["max_seq_length"] == 4096
    for profile in (rtx8, a100):
        for key in ("per_device_train_batch_size", "gradient_accumulation_steps", "max_seq_length"):
            del profile["training"][key]
        del profile["name"], profile["cluster"]["gpu"]["memory_gib"]
    assert rtx8 == a100


def test_an_empty_file_is_rtx8s_settings(write):
    assert load_profile(write("")).training == load_profile("rtx8").training


def test_a_classic_config_is_accepted_as_it_is(write):
    profile = load_profile(write(CLASSIC))
    assert profile.model.uri == "hf://Qwen/Qwen2.5-7B-Instruct"
    assert profile.training.learning_rate == 1e-4
    assert profile.training.warmup_ratio == 0.03
    assert profile.training.max_seq_length == 2048
    assert profile.lora.target_modules == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("line", "path", "value"),
    [
        ("training: {warmup_steps: 0.2}", "training.warmup_ratio", 0.2),
        ("training: {max_length: 512}", "training.max_seq_length", 512),
        ("training: {activation_checkpointing: false}", "training.gradient_checkpointing", False),
        ("training: {max_steps: -1}", "training.max_steps", None),
        ("lora: {alpha: 8}", "lora.lora_alpha", 8),
        ("lora: {rank: 4}", "lora.r", 4),
        ("base_model: org/name", "model.uri", "hf://org/name"),
        ("model: ./here", "model.uri", "file://./here"),
    ],
)
def test_other_names_of_a_setting(write, line, path, value):
    section, key = path.split(".")
    assert getattr(getattr(load_profile(write(line)), section), key) == value


def test_overrides_win(write):
    profile = load_profile("rtx8", ["training.learning_rate=1e-4", "lora.target_modules=[q_proj]", "model.uri=a/b"])
    assert profile.training.learning_rate == 1e-4
    assert profile.lora.target_modules == ("q_proj",)
    assert profile.model.uri == "hf://a/b"


def test_all_problems_are_reported_at_once_each_with_its_path(write):
    text = "training: {learning_rate: fast, epocs: 3}\nlora: {r: -1}\nlaura: {}\nserving: {port: 99999}"
    found = problems_of(write(text), ["training.seed"])
    assert len(found) == 6
    for path in ("training.learning_rate", "training.epocs", "lora.r", "laura", "serving.port", "--set training.seed"):
        assert any(problem.startswith(path) for problem in found), path


def test_a_misspelt_key_gets_a_suggestion(write):
    assert problems_of(write("training: {learning_rat: 1}"))[0].endswith("did you mean learning_rate?")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lora: {use_dora: true}", "use_dora"),
        ("lora: {modules_to_save: [lm_head]}", "modules_to_save"),
        ("model: {trust_remote_code: true}", "trust_remote_code"),
        ("training: {bf16: true, fp16: true}", "exclude each other"),
        ("training: {lr: 1.0e-4, learning_rate: 2.0e-4}", "given twice"),
        ("training: 5", "training"),
        ("lora: [1, 2]", "lora"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(write, text, words):
    assert any(words in problem for problem in problems_of(write(text)))


@pytest.mark.parametrize(
    "text", ["a: [", "\t- x: {", "a: b: c", "- 1\n- 2", "just words", "!!python/object:os.system {}", "x: 2026-13-41"]
)
def test_bad_yaml_is_a_sentence_with_its_place(write, text):
    with pytest.raises(ConfigError) as caught:
        load_profile(write(text))
    assert "profile.yaml" in str(caught.value)


def test_binary_files_are_refused(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_profile(str(path))


def test_an_unknown_profile_names_the_shipped_ones():
    with pytest.raises(NotFoundError, match="a100"):
        load_profile("a10")
