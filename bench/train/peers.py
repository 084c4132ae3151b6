"""TRL with PEFT and Liger, and Unsloth, under the same meter: the same base, rows and adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.train.cells import Cell, Contender, rows
from bench.train.meter import Meter

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(
    folder: Path, base: Path, cell: Cell, vocab: int, meter: Meter, dropout: float, contender: Contender
) -> dict[str, Any]:
    """One process's measurement. For Unsloth its package must be imported before torch's model code."""
    if contender.code == "unsloth":
        import unsloth  # type: ignore[import-not-found]  # noqa: F401
    import torch
    from datasets import Dataset
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    model, adapter = (_unsloth if contender.code == "unsloth" else _plain)(base, cell, contender, dropout)
    micro, longest = contender.micro or cell.micro, contender.packed or cell.longest
    arguments = SFTConfig(
        output_dir=str(folder / "out"), max_steps=meter.steps, per_device_train_batch_size=micro,
        gradient_accumulation_steps=max(1, cell.rows_a_step * cell.longest // (micro * longest)), learning_rate=2e-4,
        max_length=None if contender.padding_free else longest,  # TRL refuses both; no row is longer anyway
        bf16=True, optim="paged_adamw_8bit", lr_scheduler_type="cosine", logging_steps=1, report_to=[],
        save_strategy="no", weight_decay=0.01, gradient_checkpointing=contender.checkpointing,
        packing=bool(contender.packed), padding_free=contender.padding_free, disable_tqdm=True,
        **({"use_liger_kernel": True} if contender.code == "trl" else {}),
    )  # fmt: skip
    data = Dataset.from_list([{"input_ids": ids} for ids in rows(cell, vocab)])
    trainer = SFTTrainer(
        model=model, args=arguments, train_dataset=data, peft_config=adapter, callbacks=[meter],
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    trainer._get_train_sampler = lambda *_: SequentialSampler(trainer.train_dataset)
    counted = trainer.training_step

    def step(model: Any, batch: Any, *rest: Any, **more: Any) -> Any:
        mask = batch.get("attention_mask")
        meter.add(mask.sum() if mask is not None else batch["input_ids"].numel())
        return counted(model, batch, *rest, **more)

    trainer.training_step = step
    loaded = torch.cuda.memory_allocated()
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return {"loaded": loaded, "losses": losses}


def _plain(base: Path, cell: Cell, contender: Contender, dropout: float) -> tuple[Any, Any]:
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(
        base, device_map={"": 0}, dtype=torch.bfloat16, quantization_config=quantization
    )
    return model, LoraConfig(
        r=16, lora_alpha=32, target_modules=TARGETS, lora_dropout=dropout, bias="none", task_type="CAUSAL_LM"
    )


def _unsloth(base: Path, cell: Cell, contender: Contender, dropout: float) -> tuple[Any, Any]:
    import torch
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(base), max_seq_length=contender.packed or cell.longest, load_in_4bit=True, dtype=torch.bfloat16
    )
    checkpointing = "unsloth" if contender.checkpointing else False
    model = FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=32, target_modules=TARGETS, lora_dropout=dropout, bias="none",
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    return model, None
