"""train: base and prepared rows -> a LoRA adapter, its history and held-out losses.

Goes on from the newest checkpoint. On a CPU, with the same number of threads, a training that was interrupted ends
with the same history and the same adapter, bit for bit.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from halops.errors import Interrupted
from halops.stages.context import Checkpoints, Metrics, StageContext

if TYPE_CHECKING:
    from halops.train.callbacks import Watch
    from halops.train.resume import Resume
    from halops.train.session import Session
    from halops.train.world import World


CPU_BATCH_TOKENS = 1024  # in evaluation, where a batch has no other use than to fill the cores


def run(context: StageContext) -> Metrics:
    """Train, in this process or in one for each GPU. Returns the metrics of `halops.metrics` under "train: when done".

    Raises:
        ConfigError, DataError, ModelError: settings, rows or a base that can't be used.
        GpuMemoryError: CUDA out of memory; the next attempt goes one rung down.
        StageError: the loss diverged, or a tensor is in a dtype that nobody asked for.
        Interrupted: `context.stop` was set; a checkpoint is saved.
        TransientError: one of several processes ended before the others.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in the input folder
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # less lost to fragmentation
    # Nothing here is compiled by torch, but bitsandbytes decorates functions with torch.compile, which loads Inductor:
    # a third of the time that the libraries take to import.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    from halops.train.arguments import check_names, share
    from halops.train.launch import launch, team_of

    profile = context.spec.profile
    team = team_of(profile.cluster)
    check_names(profile.training)
    share(profile.training, team.count)
    if team.count > 1:
        return launch(context, team)
    from halops.train.world import ALONE

    return run_here(context, ALONE)


def run_here(context: StageContext, world: World) -> Metrics:
    """Train in this process, by itself or as one of several."""
    from halops.train.faults import translated
    from halops.train.resume import find_resume
    from halops.train.session import prepare

    with translated() as tried:
        resume = find_resume(context)
        world.require_same_step(resume.step if resume else 0)
        session = prepare(context, world, tried)
        return _train(session, resume)


def _train(session: Session, resume: Resume | None) -> Metrics:
    """Held-out loss, training, held-out loss; then write the output."""
    from halops.train.arguments import total_steps
    from halops.train.callbacks import Watch, peak_memory
    from halops.train.checkpoints import LocalCheckpoints
    from halops.train.history import History
    from halops.train.resume import state_of

    context, training = session.context, session.context.spec.profile.training
    history = History(context.output, resume.records if resume else (), events=session.world.first)
    steps, resumed = total_steps(training, len(session.train)), resume.step if resume else 0
    if resume:
        before = resume.heldout_loss_base
        context.progress(f"going on from step {resumed}", step=resumed, total_steps=steps)
    else:
        with session.model.disable_adapter():
            before = _measure(session, "held-out loss of the base")
    watch = Watch(history, context.progress, context.stop, training.logging_steps, resume.watch if resume else None)
    checkpoints = context.checkpoints or LocalCheckpoints(context.scratch / "checkpoints")
    trainer = _trainer(session, watch, checkpoints, lambda: state_of(context, history.records, watch.export(), before))
    if resume and resumed >= steps:
        trainer._load_from_checkpoint(str(resume.folder))
    else:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    if watch.interrupted:
        checkpoints.flush()
        raise Interrupted(
            f"stopped at step {trainer.state.global_step} of {steps}, after a checkpoint",
            remedy="the same command goes on from there",
        )
    after = _measure(session, "held-out loss of the tuned model")
    session.census()
    for name, value in (("base", before), ("tuned", after)):
        if value is not None:
            history.scalar(f"heldout_loss/{name}", value, steps)
    history.close()
    metrics: Metrics = {
        "heldout_loss_base": before,
        "heldout_loss": after,
        "train_loss": history.records[-1].loss if history.records else None,
        "step": steps,
        "total_steps": steps,
        "tokens_per_second": round(watch.all_tokens / watch.all_seconds, 1) if watch.all_seconds else None,
        "memory_bytes": peak_memory(),
        "trainable_parameters": sum(item.numel() for item in session.model.parameters() if item.requires_grad),
        "resumed_from_step": resumed,
        "oom_rung": context.rung,
    }
    if session.world.first:
        _write(session, metrics)
    checkpoints.flush()  # it went on beside the held-out loss
    return metrics


def _measure(session: Session, message: str) -> float | None:
    from halops.train.heldout import heldout_loss

    return heldout_loss(
        session.model,
        session.heldout,
        budget=session.settings.token_budget if session.cuda else CPU_BATCH_TOKENS,
        progress=session.context.progress,
        stop=session.context.stop,
        message=message,
        world=session.world,
    )


def _trainer(session: Session, watch: Watch, checkpoints: Checkpoints, export: Any) -> Any:
    from transformers import TrainingArguments

    from halops.train.arguments import rows_per_step, training_arguments
    from halops.train.faults import planted
    from halops.train.packing import StepCollator
    from halops.train.trainer import LoraTrainer

    context, training = session.context, session.context.spec.profile.training
    checkpointing = session.settings.checkpointed_layers > 0 and not session.fused
    arguments = training_arguments(
        context.spec.profile, context.scratch / "trainer", session.cuda, checkpointing, count=session.world.size
    )
    session.summary["arguments"] = arguments | {"output_dir": ""}
    trainer = LoraTrainer(
        model=session.model,
        args=TrainingArguments(**arguments),
        train_dataset=session.train,
        data_collator=StepCollator(session.settings.token_budget, session.end_to_end),
        callbacks=[watch, *planted(context.rung)],
        checkpoints=checkpoints,
        export=export,
        rows_per_step=rows_per_step(training),
        alike=training.per_device_train_batch_size > 1,  # as it always was: the same rows in each step
        offload=session.settings.offload_activations and session.cuda and not session.fused,
        world=session.world,
    )
    watch.trainer = trainer
    return trainer


def _write(session: Session, metrics: Metrics) -> None:
    """The adapter with its tokenizer and template, and the summary."""
    from halops.train.adapter import copy_companions, save_adapter

    context, folder = session.context, session.context.output / "adapter"
    save_adapter(session.model, folder, context.spec.base.uri)
    copy_companions(context.inputs / "base", context.inputs / "data" / "chat_template.jinja", folder)
    text = json.dumps({"metrics": metrics, **session.summary}, indent=2)
    (context.output / "summary.json").write_text(text + "\n")
