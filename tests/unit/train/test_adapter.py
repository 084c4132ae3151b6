"""Saving, loading, starting from an own adapter, going on from a checkpoint that isn't ours."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from halops.artifact import canonical_json, sha256_file, walk_files
from halops.errors import ConfigError, IntegrityError, ModelError, NotFoundError
from tests.unit.train.conftest import Attempt, make_profile

Make = Callable[..., Attempt]


@pytest.fixture
def started(attempt: Make, inputs: Path) -> Attempt:
    """A finished training whose adapter is the next one's starting point."""
    one = attempt()
    one.run()
    shutil.copytree(one.output / "adapter", inputs / "adapter")
    return one


def test_two_trainings_give_the_same_files(attempt: Make) -> None:
    one, other = attempt(), attempt()
    one.run()
    other.run()
    targets = json.loads((one.output / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)  # a set of PEFT's, in another order in another process
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (one.output / "adapter" / name).read_bytes() == (other.output / "adapter" / name).read_bytes()


def test_starts_where_an_own_adapter_ended(attempt: Make, started: Attempt) -> None:
    """The base's loss is still the base's; the first step's loss is below that of a fresh start."""
    metrics = json.loads((started.output / "summary.json").read_text())["metrics"]
    profile = make_profile(lora={"r": 2, "lora_alpha": 4})  # the adapter's own rank counts
    two = attempt(profile)
    again = two.run()
    assert again["heldout_loss_base"] == metrics["heldout_loss_base"]
    assert again["trainable_parameters"] == metrics["trainable_parameters"]
    assert two.history()[0]["loss"] < started.history()[0]["loss"] - 0.1
    assert json.loads((two.output / "adapter" / "adapter_config.json").read_text())["r"] == 4


def change(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "an adapter of the kind 'PROMPT_TUNING'"),
        ({"use_dora": True}, "not plain LoRA .use_dora"),
        ({"modules_to_save": ["lm_head"]}, "not plain LoRA .modules_to_save"),
        ({"r": 8}, "of another shape"),
        ({"target_modules": ["q_proj"]}, "of another shape"),
        ({"target_modules": ["nonesuch"]}, "doesn't fit the model"),
    ],
)
def test_a_starting_adapter_that_cannot_be_used(
    attempt: Make, started: Attempt, inputs: Path, values: dict[str, object], says: str
) -> None:
    change(inputs / "adapter", **values)
    with pytest.raises(ModelError, match=says):
        attempt().run()


def test_a_torn_starting_adapter(attempt: Make, started: Attempt, inputs: Path) -> None:
    path = inputs / "adapter" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError):
        attempt().run()
    path.unlink()
    with pytest.raises(NotFoundError, match=r"no adapter_model\.safetensors"):
        attempt().run()


def test_a_checkpoint_of_other_settings_is_refused(attempt: Make) -> None:
    attempt(kept="shared").run()
    other = attempt(make_profile(lora={"r": 8}, training={"learning_rate": 1e-3}), kept="shared")
    with pytest.raises(ConfigError, match="belongs to another training") as caught:
        other.run()
    assert "lora: " in str(caught.value)
    assert "schedule: ['cosine', 0.005, 0.1] there, ['cosine', 0.001, 0.1] here" in str(caught.value)


def test_a_folder_without_our_state_is_refused(attempt: Make, tmp_path: Path) -> None:
    draft = tmp_path / "draft"
    draft.mkdir()
    one = attempt(kept="shared")
    one.context.checkpoints.save(4, draft)  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="not a checkpoint that HALops can read"):
        one.run()


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1/0",)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_does_not_run(attempt: Make, tmp_path: Path, name: str) -> None:
    """Even one whose digest is right: state is read as plain tensors only."""
    attempt(kept="shared").run()
    shutil.rmtree(tmp_path / "shared" / "8")
    folder = tmp_path / "shared" / "6"
    torch.save({"state": Bomb()}, folder / name)
    (folder / "manifest.json").unlink()
    digests = {path: sha256_file(at) for path, at in walk_files(folder)}
    (folder / "manifest.json").write_bytes(canonical_json({"step": 6, "files": digests}))
    with pytest.raises(IntegrityError, match="holds more than tensors"):
        attempt(kept="shared").run()


def test_a_checkpoint_holds_no_pickled_settings(attempt: Make, tmp_path: Path) -> None:
    attempt(kept="shared").run()
    assert sorted(path.name for path in (tmp_path / "shared" / "8").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "halops.json", "manifest.json", "optimizer.pt",
        "rng_state.pth", "scheduler.pt", "trainer_state.json",
    ]  # fmt: skip
