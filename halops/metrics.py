"""The keys of all metrics that stages report: in manifests, `status --json` and progress events.

Units are in the name's ending or given here; a key never changes its meaning.
"""

from __future__ import annotations

from typing import Final

METRICS: Final[dict[str, str]] = {
    # data
    "rows": "conversations in the dataset",
    "train_rows": "rows to train on, after splitting long conversations",
    "heldout_rows": "rows held out",
    "trained_tokens": "tokens with loss, one epoch",
    "total_tokens": "tokens of all training rows, one epoch",
    "truncated_rows": "rows cut at max_seq_length",
    "split_rows": "conversations that were split at a turn boundary",
    "duplicate_rows": "conversations that repeat another one",
    "length_p50": "median row length, tokens",
    "length_p95": "95th percentile of row length, tokens",
    "length_max": "longest row, tokens",
    # train: while it runs
    "step": "optimizer steps done",
    "total_steps": "optimizer steps in all",
    "loss": "training loss, nats per trained token",
    "learning_rate": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "tokens_per_second": "non-padding tokens per second",
    "memory_bytes": "peak memory: CUDA allocated, or the process's resident set",
    # train: when done
    "heldout_loss_base": "held-out loss of the base model, nats per trained token",
    "heldout_loss": "held-out loss after training, nats per trained token",
    "train_loss": "mean training loss of the last logging interval",
    "trainable_parameters": "parameters that were trained",
    "resumed_from_step": "step of the checkpoint that this attempt resumed from, 0 if none",
    "oom_rung": "rungs down the out-of-memory ladder",
    # merge
    "merged_tensors": "tensors changed by the adapter",
    "copied_tensors": "tensors taken from the base as they are",
    "bytes_written": "bytes of merged shards",
    "peak_rss_bytes": "peak resident set of the stage's process",
    # convert
    "gguf_files": "GGUF files written",
    # verify
    "parity_chats": "conversations whose token ids were compared",
    "parity_mismatches": "conversations whose token ids differ",
    "stop_answers": "answers checked for ending at the stop token",
    "stop_failures": "answers that ran on",
    "merge_tensors_checked": "tensors that the second reader compared",
    "merge_failures": "tensors on which the second reader disagrees",
    "probes": "probes asked",
    "probe_score_base": "share of probes that the base answers rightly, 0 to 1",
    "probe_score": "share of probes that the tuned model answers rightly, 0 to 1",
    "answer_tokens_per_second": "generation speed while the probes were asked",
}
