"""The train stage on a tiny model: what it writes, and that it goes on where it was stopped, bit for bit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from halops.errors import Interrupted
from halops.metrics import METRICS
from tests.unit.train.conftest import Attempt, make_profile

Make = Callable[..., Attempt]


def test_trains_and_writes_what_the_contract_names(attempt: Make, tiny_base: Path) -> None:
    one = attempt()
    metrics = one.run()
    assert set(metrics) <= set(METRICS)
    assert metrics["heldout_loss_base"] > 4
    assert metrics["heldout_loss"] != metrics["heldout_loss_base"]
    assert metrics["step"] == metrics["total_steps"] == 8  # 14 rows by 4 is 4 steps, twice
    assert metrics["resumed_from_step"] == metrics["oom_rung"] == 0
    history = one.history()
    assert [line["step"] for line in history] == list(range(1, 9))
    assert set(history[0]) == {
        "step",
        "epoch",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "memory_bytes",
    }
    assert history[-1]["loss"] < history[0]["loss"]
    adapter = one.output / "adapter"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (adapter / name).read_bytes() == (tiny_base / name).read_bytes()
    assert (adapter / "chat_template.jinja").read_text() == "{{ messages }}"
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == "file:///m#sha256=00"
    assert sorted(path.name for path in adapter.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert list((one.output / "tensorboard").glob("events.out.tfevents.*"))
    summary = json.loads((one.output / "summary.json").read_text())
    assert summary["dtypes"] == {"weights": "float32", "compute": "float32", "adapter": "float32"}


def test_the_adapter_is_what_peft_reads(attempt: Make, tiny_base: Path, inputs: Path) -> None:
    """PEFT and plain transformers, with the family's own loss over full logits, find the held-out loss reported."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    one = attempt()
    metrics = one.run()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), one.output / "adapter").eval()
    total, count = 0.0, 0
    for line in (inputs / "data" / "heldout.jsonl").read_text().splitlines():
        row = json.loads(line)
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            scores = model(input_ids=ids).logits[0].double().log_softmax(-1)
        for start, end in row["trained"]:
            for position in range(start, end):
                total -= scores[position - 1, ids[0, position]].item()
                count += 1
    assert metrics["heldout_loss"] == pytest.approx(total / count, rel=1e-5)


def test_the_first_step_is_that_of_plain_transformers(attempt: Make, tiny_base: Path, inputs: Path) -> None:
    """Loss and gradient norm of a step over all rows, cut into uneven micro-batches, against one padded batch."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    one = attempt(make_profile(
        lora={"lora_dropout": 0, "target_modules": ["q_proj", "down_proj"]},
        training={"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 4},
    ))  # fmt: skip
    one.run()
    rows = [json.loads(line) for line in (inputs / "data" / "train.jsonl").read_text().splitlines()]
    ids = torch.zeros(len(rows), 24, dtype=torch.int64)
    labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
    for index, row in enumerate(rows):
        length, (start, end) = len(row["input_ids"]), row["trained"][0]
        ids[index, :length], mask[index, :length] = torch.tensor(row["input_ids"]), 1
        labels[index, start:end] = ids[index, start:end]
    set_seed(7)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    norm = torch.stack([item.grad.norm() for item in model.parameters() if item.grad is not None]).norm()
    assert one.history()[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert one.history()[0]["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)


@pytest.mark.parametrize("fused", [False, True], ids=["the family's layers", "fused layers"])
@pytest.mark.parametrize("stop_at", [2, 5], ids=["in the first epoch, between checkpoints", "in the second epoch"])
def test_a_stopped_training_ends_as_if_it_had_not_been(attempt: Make, stop_at: int, fused: bool) -> None:
    profile = make_profile(lora={"lora_dropout": 0.05}, training={"fused_layers": fused})
    whole = attempt(profile)
    whole.run()
    first = attempt(profile, kept="shared")
    first.stop_at(stop_at)
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at} of 8"):
        first.run()
    second = attempt(profile, kept="shared")
    metrics = second.run()
    assert metrics["resumed_from_step"] == stop_at
    assert second.curve() == whole.curve()
    assert second.adapter() == whole.adapter()


def test_a_killed_training_goes_on_from_its_last_checkpoint(attempt: Make, tmp_path: Path) -> None:
    """kill -9 leaves no more than the checkpoints: here that of step 3, between two records."""
    profile = make_profile(lora={"lora_dropout": 0.05}, training={"logging_steps": 2})
    whole = attempt(profile, kept="shared")
    whole.run()
    for step in ("6", "8"):
        shutil.rmtree(tmp_path / "shared" / step)
    second = attempt(profile, kept="shared")
    assert second.run()["resumed_from_step"] == 3
    assert second.curve() == whole.curve()
    assert second.adapter() == whole.adapter()


def test_a_finished_training_trains_no_step_more(attempt: Make) -> None:
    """Killed after its last checkpoint, before its output was stored."""
    profile = make_profile(training={"max_steps": 7})  # not the end of an epoch
    whole = attempt(profile, kept="shared")
    metrics = whole.run()
    second = attempt(profile, kept="shared")
    again = second.run()
    assert again["resumed_from_step"] == 7
    assert second.adapter() == whole.adapter()
    assert again["heldout_loss"] == metrics["heldout_loss"]
    assert again["heldout_loss_base"] == metrics["heldout_loss_base"]
    assert second.curve() == whole.curve()


def test_a_lower_rung_sees_the_same_rows(attempt: Make) -> None:
    """Fewer tokens at a time, more often: the same training but for rounding, also when it goes on midway."""
    profile = make_profile(lora={"lora_dropout": 0})  # its masks would differ with the shape of a batch
    whole = attempt(profile)
    whole.run()
    first = attempt(profile, kept="shared")
    first.stop_at(3)
    with pytest.raises(Interrupted):
        first.run()
    lower = attempt(profile, kept="shared", rung=3)
    assert lower.run()["oom_rung"] == 3
    assert json.loads((lower.output / "summary.json").read_text())["memory"]["token_budget"] == 24
    for one, other in zip(whole.curve(), lower.curve(), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_checkpointing": True}, {"gradient_checkpointing": True, "keep_attention": True},
        {"checkpointed_layers": 1}, {"dequantized_base": True}, {"token_budget": 30},
    ],
)  # fmt: skip
def test_fused_layers_train_as_the_family_s_do(attempt: Make, changes: dict[str, Any]) -> None:
    """Without dropout, whose masks they draw in another way."""
    expected = attempt(make_profile(lora={"lora_dropout": 0}))
    expected.run()
    fused = attempt(make_profile(lora={"lora_dropout": 0}, training={"fused_layers": True, **changes}))
    fused.run()
    assert json.loads((fused.output / "summary.json").read_text())["fused_layers"]
    for one, other in zip(expected.curve(), fused.curve(), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_an_embedding_in_host_memory_changes_nothing(attempt: Make, tmp_path: Path) -> None:
    from halops.train.host_embedding import HostEmbedding, move_embedding
    from halops.train.model import load_model, read_config
    from tests.unit.train.conftest import make_model

    base = make_model(tmp_path / "untied", tie_word_embeddings=False)
    model = load_model(base, read_config(base), make_profile(), cuda=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model(input_ids=ids, labels=ids).loss
    assert move_embedding(model)
    assert isinstance(model.get_input_embeddings(), HostEmbedding)
    assert not [name for name, _ in model.named_parameters() if "embed" in name]
    assert model(input_ids=ids, labels=ids).loss == expected


def test_a_tied_embedding_stays(tiny_base: Path) -> None:
    from halops.train.host_embedding import move_embedding
    from halops.train.model import load_model, read_config

    assert not move_embedding(load_model(tiny_base, read_config(tiny_base), make_profile(), cuda=False))


def test_stopping_before_the_first_step_leaves_nothing_to_save(attempt: Make) -> None:
    one = attempt()
    one.stop.set()
    with pytest.raises(Interrupted, match="held-out loss of the base"):
        one.run()


def test_progress_tells_step_rate_and_time_left(attempt: Make) -> None:
    one = attempt()
    one.run()
    events = [event for event in one.events if event["message"] == "training"]
    assert events[-1]["done"] == events[-1]["total"] == 8
    assert events[3]["eta_seconds"] is not None
    for key in ("step", "total_steps", "loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_bytes"):
        assert math.isfinite(events[3]["metrics"][key])


def test_nothing_held_out_is_no_error(attempt: Make, inputs: Path) -> None:
    (inputs / "data" / "heldout.jsonl").write_text("")
    metrics = attempt().run()
    assert metrics["heldout_loss"] is None
    assert metrics["heldout_loss_base"] is None


def test_the_last_rung_means_nothing_more_on_a_cpu(attempt: Make, inputs: Path) -> None:
    """There activations are in host memory anyway."""
    one = attempt(make_profile(training={"max_steps": 1}), rung=3)
    one.run()
    longest = max(len(json.loads(line)["input_ids"]) for line in (inputs / "data" / "train.jsonl").open())
    assert json.loads((one.output / "summary.json").read_text())["memory"] == {
        "token_budget": longest, "checkpointed_layers": 2, "keep_attention": False, "offload_activations": True,
        "embedding_on_host": False, "dequantized_base": False, "mlp_tokens": 4096, "rung": 3, "predicted_bytes": None,
    }  # fmt: skip


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_come_in_steps_of_like_length(attempt: Make, batch: int) -> None:
    """What the Trainer really draws. With one row at a time there is no padding, and a plain shuffle is better."""
    from halops.stages.train import _trainer
    from halops.train.callbacks import Watch
    from halops.train.history import History
    from halops.train.session import prepare

    one = attempt(
        make_profile(training={"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch})
    )
    session = prepare(one.context)
    trainer = _trainer(
        session, Watch(History(one.output), one.context.progress, one.stop, 1), one.context.checkpoints, dict
    )
    drawn = [
        length
        for step in trainer.get_train_dataloader()
        for part in step["micro_batches"]
        for length in part["cu_seq_lens_q"].diff().tolist()
    ]
    assert sorted(drawn) == sorted(session.train.lengths)
    spread = sum(max(drawn[start : start + 4]) - min(drawn[start : start + 4]) for start in range(0, 12, 4))
    assert max(drawn) in drawn[:4]
    assert spread < 20 if batch > 1 else spread > 20


def test_a_second_gpu_that_is_visible_does_not_widen_the_batch(attempt: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer would put as many rows into a micro-batch as it sees GPUs: one process uses one."""
    from transformers import TrainingArguments

    from halops.stages.train import _trainer
    from halops.train.callbacks import Watch
    from halops.train.history import History
    from halops.train.session import prepare

    made = TrainingArguments.__post_init__

    def sees_two(self: TrainingArguments) -> None:
        made(self)
        self._n_gpu = 2

    monkeypatch.setattr(TrainingArguments, "__post_init__", sees_two)
    one = attempt()
    session = prepare(one.context)
    watch = Watch(History(one.output), one.context.progress, one.stop, 1)
    trainer = _trainer(session, watch, one.context.checkpoints, dict)
    assert trainer._train_batch_size == 4
    steps = [step["micro_batches"] for step in trainer.get_train_dataloader()]
    assert [sum(len(part["cu_seq_lens_q"]) - 1 for part in step) for step in steps] == [4, 4, 4, 2]
