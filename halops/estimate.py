"""What each stage needs before anything is paid for: VRAM, RAM, disk, time, money. Pure arithmetic.

Figures that are assumptions rather than measurements say so here or in an estimate's note.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from halops.artifact import Frozen
from halops.gguf_sizes import gguf_bytes, quantize_seconds
from halops.memory import adapter_element_bytes, optimizer_bytes, serving_memory, train_host_bytes, training_memory
from halops.parameters import largest_tensor, lora_parameters, parameters
from halops.planner.choose import Spending, plan_for
from halops.planner.step_time import Workload as Step
from halops.prices import hourly_price
from halops.profile import Profile
from halops.sections import Dimensions
from halops.speed import matmul_parameters, micro_batch_seconds, tokens_per_second
from halops.units import human_count

ASSUMED_ROWS = 1000
ASSUMED_ROW_TOKENS = 390  # an instruction dataset's usual mean
NETWORK_BYTES_PER_SECOND = 100e6  # assumed, for the one download of a base model
DISK_BYTES_PER_SECOND = 0.5e9  # measured: buffered writes with fsync, 0.4 to 0.6 GB/s
TOKENIZER_TOKENS_PER_SECOND = 600e3  # measured: 2.6 MB/s on one core
READ_BYTES_PER_SECOND = 20e9  # assumed: memory bandwidth of a small host, which bounds answering on a CPU
GPU_ANSWER_TOKENS_PER_SECOND = 80  # of a 7B at 4 bits on an 8 GB card
PROBES, PROBE_TOKENS = 40, 60  # assumed
LORA_FILE_BYTES = 4  # adapters are stored in fp32


class StageEstimate(Frozen):
    """One stage's needs. `seconds` and `cost` are None where they don't apply or aren't known."""

    stage: str
    vram_bytes: int = 0
    ram_bytes: int = 0
    disk_bytes: int = 0
    seconds: float | None = None
    cost: float | None = None
    note: str = ""


class Workload(Frozen):
    """What the dataset is known, or assumed, to be. `tokens` are those of one epoch."""

    rows: int
    tokens: int
    longest: int | None = None
    assumed: str = ""

    @property
    def row_tokens(self) -> float:
        """Mean tokens of a row."""
        return self.tokens / self.rows


def make_workload(profile: Profile, rows: int | None, tokens: int | None, longest: int | None = None) -> Workload:
    """Fill in what isn't known, and say so."""
    said = []
    count = rows or profile.data.expected_examples
    if not count:
        count = ASSUMED_ROWS
        said.append(f"{count:,} rows")
    if not tokens:
        mean = min(ASSUMED_ROW_TOKENS, profile.training.max_seq_length)
        tokens = count * mean
        said.append(f"{mean} tokens each")
    assumed = f"assuming {', '.join(said)}" if said else ""
    return Workload(rows=count, tokens=tokens, longest=longest, assumed=assumed)


def estimate_run(
    profile: Profile,
    dims: Dimensions,
    rows: int | None = None,
    tokens: int | None = None,
    prices: Mapping[str, float] | None = None,
    *,
    longest: int | None = None,
    cores: int = 2,
) -> list[StageEstimate]:
    """One estimate for each stage in order, then one for `serving`.

    Args:
        rows, tokens: of the dataset, one epoch; None where they aren't known.
        prices: the site's `gpu_prices`: label -> price per hour; see `halops.prices`.
        longest: tokens of the longest row, where known: memory then counts it instead of `max_seq_length`.
        cores: CPU cores of the machine that runs the CPU stages.
    """
    work = make_workload(profile, rows, tokens, longest)
    gpu_price = hourly_price(profile, prices or {})
    cpu_price = (prices or {}).get("cpu")
    stages: list[Callable[[Profile, Dimensions, Workload, int], StageEstimate]] = [
        _base, _data, _train, _merge, _convert, _verify, _serving,
    ]  # fmt: skip
    estimates = [stage(profile, dims, work, cores) for stage in stages]
    return [_priced(estimate, gpu_price if estimate.vram_bytes else cpu_price) for estimate in estimates]


def _priced(estimate: StageEstimate, price: float | None) -> StageEstimate:
    """Serving has no end, so its price is for an hour, in the note."""
    if price is None:
        return estimate
    if estimate.seconds is None:
        return estimate.model_copy(update={"note": f"{estimate.note}; {price:.2f} an hour"})
    return estimate.model_copy(update={"cost": round(price * estimate.seconds / 3600, 4)})


def merged_bytes(dims: Dimensions) -> int:
    """A 16-bit model's weights: the base as it is mirrored, and the merged model."""
    return 2 * parameters(dims)


def converted_bytes(profile: Profile, dims: Dimensions) -> int:
    """All GGUF files that conversion leaves, the adapter's included."""
    files = sum(gguf_bytes(dims, kind) for kind in profile.convert.types)
    return files + (2 * lora_parameters(dims, profile.lora) if profile.convert.adapter else 0)


def kept_bytes(profile: Profile, dims: Dimensions) -> int:
    """What a finished run leaves in the store: base, adapter, merged model, GGUF files."""
    return 2 * merged_bytes(dims) + _adapter_bytes(profile, dims) + converted_bytes(profile, dims)


def optimizer_steps(profile: Profile, rows: int) -> int:
    """Updates in all, after the held-out split."""
    training = profile.training
    if training.max_steps:
        return training.max_steps
    batch = training.per_device_train_batch_size * training.gradient_accumulation_steps
    train_rows = max(1, round(rows * (1 - profile.data.heldout_fraction)))
    return max(1, math.ceil(math.ceil(train_rows / batch) * training.num_train_epochs))


def _adapter_bytes(profile: Profile, dims: Dimensions) -> int:
    return LORA_FILE_BYTES * lora_parameters(dims, profile.lora)


def _base(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    size = merged_bytes(dims)
    if profile.model.uri.startswith("pypi://"):
        return StageEstimate(
            stage="base", ram_bytes=10**9 + 6 * parameters(dims), disk_bytes=round(size * 1.4), note="dequantized once",
            seconds=15 + 60 * parameters(dims) / 1e9,
        )  # fmt: skip
    local = profile.model.uri.startswith("file://")
    rate = DISK_BYTES_PER_SECOND if local else NETWORK_BYTES_PER_SECOND
    note = "mirrored once" if local else "mirrored once, assuming 100 MB/s"
    return StageEstimate(stage="base", ram_bytes=400_000_000, disk_bytes=size, seconds=2 + size / rate, note=note)


def _data(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    return StageEstimate(
        stage="data", ram_bytes=300_000_000 + 40 * work.tokens, disk_bytes=10 * work.tokens,
        seconds=2 + work.tokens / TOKENIZER_TOKENS_PER_SECOND, note=work.assumed,
    )  # fmt: skip


def _train(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    training, gpu = profile.training, profile.cluster.gpu.count > 0
    memory = training_memory(profile, dims, work.longest)
    steps = optimizer_steps(profile, work.rows)
    spending = plan_for(profile, dims, _step(profile, work))
    learn = steps * _step_seconds(profile, dims, work, cores, spending)
    # The held-out rows are read twice, before and after, forward only.
    forward = 2 / (6 if training.gradient_checkpointing else 4)
    heldout = 2 * forward * profile.data.heldout_fraction * work.tokens / _rate(profile, dims, work, cores, spending)
    load = 20 + merged_bytes(dims) / DISK_BYTES_PER_SECOND
    states, _ = optimizer_bytes(training.optim, lora_parameters(dims, profile.lora), adapter_element_bytes(profile))
    checkpoints = (training.save_total_limit + 1) * (_adapter_bytes(profile, dims) + states)
    host = train_host_bytes(profile, dims) + (spending.host if spending else 0)
    return StageEstimate(
        stage="train",
        vram_bytes=(spending.least if spending else memory.needed) if gpu else 0,
        ram_bytes=host if gpu else memory.needed,
        disk_bytes=merged_bytes(dims) + checkpoints,
        seconds=load + learn + heldout,
        note=_train_note(profile, dims, work, cores, steps, spending),
    )


def _step(profile: Profile, work: Workload) -> Step:
    """One process's part of an optimizer step."""
    training = profile.training
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    processes = max(1, profile.cluster.gpu.count) * profile.cluster.nodes
    longest = min(work.longest or training.max_seq_length, training.max_seq_length)
    return Step(rows=max(1, rows // processes), longest=longest, mean=min(work.row_tokens, longest))


def _step_seconds(profile: Profile, dims: Dimensions, work: Workload, cores: int, spending: Spending | None) -> float:
    """One optimizer step: as planned on a GPU, as the classic micro-batches elsewhere."""
    if spending:
        return spending.seconds
    training = profile.training
    micro = work.row_tokens * training.per_device_train_batch_size
    return training.gradient_accumulation_steps * micro_batch_seconds(profile, dims, micro, cores)


def _rate(profile: Profile, dims: Dimensions, work: Workload, cores: int, spending: Spending | None) -> float:
    if spending:
        return _step(profile, work).tokens / spending.seconds
    return tokens_per_second(profile, dims, work.row_tokens, cores)


def _train_note(
    profile: Profile, dims: Dimensions, work: Workload, cores: int, steps: int, spending: Spending | None
) -> str:
    where = "GPU" if profile.cluster.gpu.count else f"{cores} core{'s' if cores > 1 else ''}"
    said = [f"{steps:,} steps at ~{human_count(_rate(profile, dims, work, cores, spending))} tokens/s on {where}"]
    said += [spending.words] if spending else []
    return "; ".join(said + [work.assumed] * bool(work.assumed))


def _merge(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    size = merged_bytes(dims)
    return StageEstimate(
        stage="merge",
        ram_bytes=round(1.5 * 4 * largest_tensor(dims)) + 500_000_000,
        disk_bytes=2 * size + _adapter_bytes(profile, dims),
        seconds=2 + size / DISK_BYTES_PER_SECOND,
        note="streams one tensor at a time",
    )


def _convert(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    kinds = profile.convert.types
    f16 = 0 if "f16" in kinds else gguf_bytes(dims, "f16")  # made in between all the same
    names = ", ".join(kinds)
    return StageEstimate(
        stage="convert",
        ram_bytes=round(2.6 * 2 * largest_tensor(dims)) + 900_000_000,  # measured: 3.6 and 3.7 GB for a 7B
        disk_bytes=merged_bytes(dims) + f16 + converted_bytes(profile, dims),
        seconds=15 + sum(quantize_seconds(dims, kind, cores) for kind in {"f16", *kinds}),
        note=f"{names}; {cores} cores",
    )


def _verify(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    memory = serving_memory(dims, profile.serving, profile.verify.device == "gpu")
    models = 2 if profile.verify.compare_base else 1
    answered = PROBES * PROBE_TOKENS + profile.verify.answers * profile.verify.answer_tokens
    file = gguf_bytes(dims, profile.serving.file)
    speed = GPU_ANSWER_TOKENS_PER_SECOND if memory.on_gpu else READ_BYTES_PER_SECOND / file
    proof = 2 * merged_bytes(dims) / DISK_BYTES_PER_SECOND
    return StageEstimate(
        stage="verify",
        vram_bytes=memory.needed if memory.on_gpu else 0,
        ram_bytes=max(memory.host if memory.on_gpu else memory.needed, 8 * largest_tensor(dims) + 500_000_000),
        disk_bytes=2 * merged_bytes(dims) + converted_bytes(profile, dims),
        seconds=10 + proof + models * answered / speed,
        note=f"~{speed:.0f} tokens/s assumed for {models * answered:,} answer tokens",
    )


def _serving(profile: Profile, dims: Dimensions, work: Workload, cores: int) -> StageEstimate:
    memory = serving_memory(dims, profile.serving, profile.cluster.gpu.count > 0)
    file = gguf_bytes(dims, profile.serving.file)
    flops = 2 * matmul_parameters(dims) / 1e9
    return StageEstimate(
        stage="serving",
        vram_bytes=memory.needed if memory.on_gpu else 0,
        ram_bytes=memory.host if memory.on_gpu else memory.needed,
        disk_bytes=file,
        note=f"{profile.serving.file}, context {profile.serving.ctx_size:,}; {flops:.1f} GFLOP a token",
    )
