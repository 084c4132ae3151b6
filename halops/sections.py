"""The sections of a profile, one class each. Field names are the classic ones of QLoRA configs.

Defaults are those of the `rtx8` profile: Qwen2.5-7B-Instruct on one 8 GB card.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from halops.artifact import Frozen
from halops.llamacpp import filetypes
from halops.names import Stage

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
# A positive Kubernetes quantity, without the exponents and the sub-unit suffixes that nobody asks memory in.
Quantity = Annotated[str, Field(pattern=r"^([1-9][0-9]*(\.[0-9]+)?|0\.[0-9]*[1-9][0-9]*)(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]

QWEN25_7B = "hf://Qwen/Qwen2.5-7B-Instruct@a09a35458c702b33eeacc393d103063234e8bc28"
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Dimensions(Frozen):
    """What memory and time estimates need to know of a dense decoder; names as in its config.json."""

    hidden_size: Positive = 3584
    intermediate_size: Positive = 18944
    num_hidden_layers: Positive = 28
    num_attention_heads: Positive = 28
    num_key_value_heads: Positive = 4
    head_dim: Positive | None = None
    vocab_size: Positive = 152064
    tie_word_embeddings: bool = False
    attention_bias: bool = True
    max_position_embeddings: Positive = 32768


class Model(Frozen):
    """The base model. `adapter` names an own LoRA adapter to go on from."""

    uri: str = QWEN25_7B
    adapter: str | None = None
    dimensions: Dimensions | None = None


class Data(Frozen):
    """The dataset. `probes: auto` takes probes.jsonl beside it, if there is one."""

    expected_examples: Positive | None = None
    heldout_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.1
    long_rows: Literal["split", "truncate"] = "split"
    probes: str | None = "auto"


class Quantization(Frozen):
    """How the frozen base is held while training; names of bitsandbytes."""

    load_in_4bit: bool = True
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    bnb_4bit_use_double_quant: bool = True
    bnb_4bit_compute_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"


class Lora(Frozen):
    """The adapter; names of PEFT's LoraConfig."""

    r: Positive = 16
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    lora_dropout: Fraction = 0.05
    bias: Literal["none"] = "none"
    target_modules: tuple[str, ...] = LINEARS
    task_type: Literal["CAUSAL_LM"] = "CAUSAL_LM"
    use_rslora: bool = False
    use_dora: Literal[False] = False
    rank_pattern: dict[str, Positive] = {}
    alpha_pattern: dict[str, float] = {}


class Training(Frozen):
    """The optimisation; classic names of TrainingArguments and SFTConfig."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 3
    max_steps: Positive | None = None
    per_device_train_batch_size: Positive = 1
    gradient_accumulation_steps: Positive = 8
    learning_rate: Annotated[float, Field(gt=0)] = 2e-4
    lr_scheduler_type: str = "cosine"
    warmup_ratio: Fraction = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    adam_epsilon: Annotated[float, Field(gt=0)] = 1e-8
    max_seq_length: Annotated[int, Field(ge=16)] = 1024
    bf16: bool = True
    fp16: bool = False
    gradient_checkpointing: bool = True  # may be used; how many layers need it is planned
    # How memory is spent. What isn't set is planned for the card; none of it changes what is learned.
    token_budget: Positive | None = None
    checkpointed_layers: Annotated[int, Field(ge=0)] | None = None
    keep_attention: bool | None = None
    offload_activations: bool | None = None
    host_memory_gib: Annotated[float, Field(ge=0)] | None = None  # most that activations wait in, of a whole machine
    embedding_on_host: bool | None = None
    dequantized_base: bool | None = None
    fused_layers: bool | None = None  # one autograd function a layer; on CUDA where the family allows it
    optim: str = "paged_adamw_8bit"
    save_steps: Positive = 100
    save_total_limit: Positive = 3
    logging_steps: Positive = 10
    seed: int = 42

    @model_validator(mode="after")
    def _one_precision(self) -> Training:
        if self.bf16 and self.fp16:
            raise ValueError("bf16 and fp16 exclude each other: set one of them to false")
        return self


class Merge(Frozen):
    """The merged model: its dtype, and the size at which a new shard begins."""

    dtype: Literal["float16", "bfloat16"] = "float16"
    max_shard_bytes: Positive = 5 * 10**9


class Convert(Frozen):
    """GGUF files: NAME-TYPE.gguf for each type, and the adapter as a GGUF LoRA."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "halops"
    types: tuple[str, ...] = ("f16", "q4_k_m", "q5_k_m")
    adapter: bool = True

    @field_validator("types")
    @classmethod
    def _known_types(cls, types: tuple[str, ...]) -> tuple[str, ...]:
        if found := filetypes.problems(types):
            raise ValueError(f"{'; '.join(found)}; choose from {', '.join(filetypes.USABLE)}")
        return tuple(kind.lower() for kind in types)


class Verify(Frozen):
    """What the finished files must pass. `max_*` are limits; a result past one fails the run."""

    device: Literal["cpu", "gpu"] = "cpu"
    parity_chats: Positive = 32
    answers: Positive = 4
    answer_tokens: Positive = 160
    max_stop_failures: Annotated[int, Field(ge=0)] = 0
    compare_base: bool = True


class Serving(Frozen):
    """llama-server's settings; `file` is the GGUF type that is served."""

    file: Annotated[str, AfterValidator(str.lower)] = "q4_k_m"
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8081
    ctx_size: Positive = 4096
    n_gpu_layers: Annotated[int, Field(ge=0)] = 99
    threads: Positive = 6
    parallel: Positive = 1
    flash_attn: bool = True
    cont_batching: bool = True
    chat_template: Literal["chatml", "model"] = "chatml"


class Gpu(Frozen):
    """The GPU that training asks for: by count and memory, never by product name."""

    count: Annotated[int, Field(ge=0)] = 1
    memory_gib: Annotated[float, Field(ge=0)] = 8


class StageResources(Frozen):
    """What one stage's container asks for, as Kubernetes quantities; what isn't given is computed from the model."""

    cpu: Quantity | None = None
    memory: Quantity | None = None
    ephemeral_storage: Quantity | None = None


class Toleration(Frozen):
    """A taint that stages put up with, under Kubernetes' names."""

    key: str | None = None
    operator: Literal["Exists", "Equal"] = "Exists"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class Cluster(Frozen):
    """Where stages run, and on what kind of node. Training asks for the GPU; the rest runs on CPU nodes."""

    backend: Literal["local", "kube"] = "kube"
    gpu: Gpu = Gpu()
    nodes: Positive = 1
    price_per_hour: Annotated[float, Field(ge=0)] | None = None
    resources: dict[Stage, StageResources] = {}
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    runtime_class: str | None = None
    priority_class: str | None = None


class Storage(Frozen):
    """The store; empty takes the site's."""

    uri: str | None = None
