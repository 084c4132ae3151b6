"""The profile's training section in transformers' own names."""

from __future__ import annotations

from typing import Any

import pytest

from halops.errors import ConfigError
from halops.profile import load_profile, shipped_profiles
from halops.train.arguments import installed_fields, total_steps, training_arguments
from tests.unit.train.conftest import make_profile

OLD = {"gradient_checkpointing", "gradient_checkpointing_kwargs", "warmup_ratio", "warmup_steps"}
TODAY = {"activation_checkpointing", "activation_checkpointing_kwargs", "warmup_steps"}


@pytest.mark.parametrize(
    ("profile", "cuda", "expected"),
    [
        ("rtx8", True, {
            "num_train_epochs": 3, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1,
            "learning_rate": 2e-4, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "weight_decay": 0.01,
            "activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False},
            "optim": "paged_adamw_8bit", "save_steps": 100, "bf16": False, "fp16": False, "use_cpu": False,
            "max_steps": -1,
        }),
        ("rtx8", False, {"optim": "adamw_torch", "use_cpu": True, "dataloader_pin_memory": False}),
        ("a100", True, {
            "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1, "optim": "paged_adamw_8bit",
        }),
        ("local", False, {
            "max_steps": 46, "per_device_train_batch_size": 18, "gradient_accumulation_steps": 1,
            "optim": "adamw_torch", "activation_checkpointing": False, "activation_checkpointing_kwargs": None,
        }),
    ],
)  # fmt: skip
def test_today_s_names(profile: str, cuda: bool, expected: dict[str, Any]) -> None:
    arguments = training_arguments(load_profile(profile), "out", cuda, fields=TODAY)
    assert {key: arguments[key] for key in expected} == expected


def test_names_of_older_transformers() -> None:
    arguments = training_arguments(load_profile("rtx8"), "out", True, fields=OLD)
    assert arguments["gradient_checkpointing"] is True
    assert arguments["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    assert arguments["warmup_ratio"] == 0.1
    assert "warmup_steps" not in arguments


@pytest.mark.parametrize("name", shipped_profiles())
def test_the_installed_transformers_takes_them(name: str, tmp_path: Any) -> None:
    from transformers import TrainingArguments

    arguments = training_arguments(load_profile(name), tmp_path, cuda=False)
    assert set(arguments) <= installed_fields()
    made = TrainingArguments(**arguments)
    assert made.get_warmup_steps(50) == 5
    assert made.report_to == []


def test_fp16_asks_for_the_loss_scaler_on_cuda_only() -> None:
    profile = load_profile("rtx8", ["training.bf16=false", "training.fp16=true"])
    assert training_arguments(profile, "out", True)["fp16"] is True
    assert training_arguments(profile, "out", False)["fp16"] is False


def test_names_that_are_not_there() -> None:
    profile = load_profile("rtx8", ["training.optim=adam_magic", "training.lr_scheduler_type=cosinus"])
    with pytest.raises(ConfigError) as caught:
        training_arguments(profile, "out", True)
    assert "adam_magic" in str(caught.value)
    assert "paged_adamw_8bit" in str(caught.value)
    assert "cosinus" in str(caught.value)


def test_classic_optimizer_names() -> None:
    assert training_arguments(load_profile("rtx8", ["training.optim=adamw_hf"]), "o", True)["optim"] == "adamw_torch"


@pytest.mark.parametrize(
    ("epochs", "most", "rows", "expected"),
    [(2, None, 14, 8), (0.5, None, 14, 2), (1, 50, 14, 50), (3, None, 1, 3), (0.1, None, 14, 1), (1.1, None, 40, 11)],
)
def test_total_steps_are_those_of_the_trainer(epochs: float, most: int | None, rows: int, expected: int) -> None:
    training = make_profile(training={"num_train_epochs": epochs, "max_steps": most}).training
    assert total_steps(training, rows) == expected
