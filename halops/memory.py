"""Peak memory of training and of serving, in bytes, from a model's dimensions.

Training's formula counts what must be there (weights, gradients, optimizer states, saved activations) and has
two constants fitted to measurements of Qwen2.5-7B on an H100 with TRL, PEFT, bitsandbytes and Liger: 1 x 1024
tokens 5.93 GiB allocated (5.99 without Liger) and 4 x 4096 tokens 12.0 GiB. Checked against others than those it was
fitted to: bf16 base, no checkpointing, 2 x 4096: 63.3 GiB measured, 62.3 computed; embedding elsewhere: 4.24
GiB of base and adapter measured and computed.
"""

from __future__ import annotations

from typing import NamedTuple

from halops.artifact import Frozen
from halops.gguf_sizes import gguf_bytes, table_bytes
from halops.parameters import (
    embedding_parameters,
    head_dim,
    largest_tensor,
    layer_matrices,
    linear_parameters,
    lora_parameters,
    parameters,
    small_parameters,
)
from halops.profile import Profile
from halops.sections import Dimensions, Quantization, Serving
from halops.units import GIB, MIB

# Fitted: live tensors of one decoder layer's forward and backward, in units of the two widths. It stands for gate,
# up, their product and its dropped-out copy for down_proj's adapter, and the attention block's inputs and outputs.
INNER_TENSORS, HIDDEN_TENSORS = 4, 10
# Fitted: cuBLAS workspaces, rotary tables, buffers of the optimizer step.
FIXED_BYTES = 84_000_000
# The loss is computed a chunk of logits at a time: so many bytes of them in fp32, and half as many in 16 bits.
LOSS_CHUNK_BYTES = 128 * MIB
# The allocator's reserve over what is allocated, measured with expandable segments off.
FRAGMENTATION = 1.06
CUDA_CONTEXT = 518 * MIB  # measured on an H100, driver 580
ESTIMATE_HEADROOM = 1.25  # what a stage gets of memory and disk: a limit that is too low costs a whole attempt
HOST_RUNTIME = 1_200_000_000  # Python with torch, transformers, peft and trl imported


class OptimizerStates(NamedTuple):
    """Bytes per trained parameter, and whether CUDA may move them to the host."""

    bytes_per_parameter: float
    paged: bool = False


# `None` stands for two moments in the parameter's own dtype, as torch keeps them. 8-bit states carry
# one fp32 scale for each block of 256 values.
OPTIMIZERS: dict[str, OptimizerStates | None] = {
    "adamw_torch": None,
    "adamw_torch_fused": None,
    "adamw_hf": None,
    "adamw": None,
    "paged_adamw": OptimizerStates(8, paged=True),
    "adamw_bnb_8bit": OptimizerStates(2.03),
    "adamw_8bit": OptimizerStates(2.03),
    "paged_adamw_8bit": OptimizerStates(2.03, paged=True),
    "paged_adamw_32bit": OptimizerStates(8, paged=True),
    "lion_8bit": OptimizerStates(1.02),
    "lion_32bit": OptimizerStates(4),
    "paged_lion_8bit": OptimizerStates(1.02, paged=True),
    "paged_lion_32bit": OptimizerStates(4, paged=True),
    "adafactor": OptimizerStates(0.05),
    "sgd": OptimizerStates(0),
    "adagrad": OptimizerStates(4),
    "rmsprop": OptimizerStates(4),
    "rmsprop_bnb": OptimizerStates(4),
    "rmsprop_bnb_32bit": OptimizerStates(4),
    "rmsprop_bnb_8bit": OptimizerStates(1.02),
    "ademamix": OptimizerStates(12),
    "ademamix_8bit": OptimizerStates(3.05),
    "paged_ademamix_32bit": OptimizerStates(12, paged=True),
    "paged_ademamix_8bit": OptimizerStates(3.05, paged=True),
}


class TrainingMemory(Frozen):
    """Where training's memory goes, all in bytes. `paged` may live on the host and isn't counted on the card."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    paged: int
    activations: int
    workspace: int
    overhead: int

    @property
    def allocated(self) -> int:
        """Peak of live tensors: what `torch.cuda.max_memory_allocated` shows."""
        return self.base + self.adapter + self.gradients + self.optimizer + self.activations + self.workspace

    @property
    def needed(self) -> int:
        """What the card (or the host, without one) must have free."""
        return round(self.allocated * FRAGMENTATION) + self.overhead


def bits_per_weight(quantization: Quantization) -> float:
    """4 bits, a scale for each block of 64; with double quantization the scales are 8 bits, with one fp32 for each
    256 of them (Dettmers et al., QLoRA, section 3): 4.127 bits."""
    if not quantization.load_in_4bit:
        return 16
    return 4 + (8 / 64 + 32 / (64 * 256) if quantization.bnb_4bit_use_double_quant else 32 / 64)


def element_bytes(profile: Profile) -> int:
    """Bytes of an activation, and of a weight that isn't quantized. On a CPU all is fp32."""
    half = profile.training.bf16 or profile.training.fp16
    return 2 if half and profile.cluster.gpu.count else 4


def adapter_element_bytes(profile: Profile) -> int:
    """Bytes of an adapter's weight while training: fp32 under fp16, whose loss scaler needs it."""
    return 4 if profile.training.fp16 else element_bytes(profile)


def base_bytes(dims: Dimensions, quantization: Quantization, element: int) -> int:
    """The frozen base as it is held while training: linears quantized, everything else in `element` bytes."""
    rest = (embedding_parameters(dims) + small_parameters(dims)) * element
    if not quantization.load_in_4bit:
        return parameters(dims) * element
    return rest + round(linear_parameters(dims) * bits_per_weight(quantization) / 8)


def optimizer_bytes(optim: str, trainable: int, element: int) -> tuple[int, bool]:
    """Optimizer states in bytes, and whether they are paged. An unknown name counts as Adam in fp32."""
    states = OPTIMIZERS.get(optim, OptimizerStates(8)) or OptimizerStates(2 * element)
    return round(states.bytes_per_parameter * trainable), states.paged


def activation_bytes(dims: Dimensions, tokens: int, element: int, checkpointing: bool) -> tuple[int, int]:
    """(kept for the backward pass, live within one layer), for `tokens` tokens in flight.

    With checkpointing each layer's input is kept and one layer at a time is computed again.
    """
    width = INNER_TENSORS * dims.intermediate_size + HIDDEN_TENSORS * dims.hidden_size
    layer = tokens * width * element
    if checkpointing:
        return dims.num_hidden_layers * tokens * dims.hidden_size * element, layer
    return dims.num_hidden_layers * layer, 0


def workspace_bytes(dims: Dimensions, live_layer: int, element: int, quantized: bool, tokens: int) -> int:
    """The larger of one layer's backward (with its largest weight dequantized) and the chunked loss."""
    weight = max(matrix.size for matrix in layer_matrices(dims)) * element if quantized else 0
    loss = round(1.5 * min(tokens * dims.vocab_size * 4, LOSS_CHUNK_BYTES))
    return max(live_layer + weight, loss) + FIXED_BYTES


def training_memory(profile: Profile, dims: Dimensions, longest: int | None = None) -> TrainingMemory:
    """Peak memory of training under `profile`, on its GPU, or in host memory without one.

    Args:
        longest: tokens of the longest row if that is known; else rows count as `max_seq_length`.
    """
    training, element = profile.training, element_bytes(profile)
    length = min(training.max_seq_length, longest or training.max_seq_length)
    tokens = training.per_device_train_batch_size * length
    trainable = lora_parameters(dims, profile.lora)
    adapter = adapter_element_bytes(profile)
    states, paged = optimizer_bytes(training.optim, trainable, adapter)
    kept, live = activation_bytes(dims, tokens, element, training.gradient_checkpointing)
    return TrainingMemory(
        base=base_bytes(dims, profile.quantization, element),
        adapter=trainable * adapter,
        gradients=trainable * adapter,
        optimizer=0 if paged else states,
        paged=states if paged else 0,
        activations=kept,
        workspace=workspace_bytes(dims, live, element, profile.quantization.load_in_4bit, tokens),
        overhead=CUDA_CONTEXT if profile.cluster.gpu.count else HOST_RUNTIME,
    )


def train_host_bytes(profile: Profile, dims: Dimensions) -> int:
    """Host memory of training on a GPU, less what activations that wait there take: the libraries, the base's largest
    tensor on its way, twice, and paged optimizer states."""
    trainable = lora_parameters(dims, profile.lora)
    states, paged = optimizer_bytes(profile.training.optim, trainable, adapter_element_bytes(profile))
    return 3 * 10**9 + 2 * 2 * largest_tensor(dims) + paged * states


def kv_bytes_per_token(dims: Dimensions, element: int = 2) -> int:
    """Keys and values of one token in all layers."""
    return 2 * dims.num_hidden_layers * dims.num_key_value_heads * head_dim(dims) * element


class ServingMemory(Frozen):
    """Where llama-server's memory goes, in bytes; `on_gpu` says which of the two it needs.

    Computed 5,147 MiB for Qwen2.5-7B Q4_K_M at context 4096; measured on an H100: 5,149 MiB.
    """

    weights: int
    kv_cache: int
    compute: int
    overhead: int
    host: int
    on_gpu: bool

    @property
    def needed(self) -> int:
        """What the card must have free; on a CPU, the host."""
        return self.weights + self.kv_cache + self.compute + self.overhead


def serving_memory(dims: Dimensions, serving: Serving, on_gpu: bool) -> ServingMemory:
    """llama-server's memory: the file, `ctx_size` tokens of KV cache in fp16 for each of `parallel` slots, and a
    buffer for the logits of one micro-batch of 512 tokens. On a GPU the embedding table stays on the host."""
    weights = gguf_bytes(dims, serving.file)
    table = table_bytes(dims, serving.file)
    gpu = on_gpu and serving.n_gpu_layers > 0
    return ServingMemory(
        weights=weights - table if gpu else weights,
        kv_cache=serving.ctx_size * serving.parallel * kv_bytes_per_token(dims),
        compute=512 * dims.vocab_size * 4,
        overhead=round(0.45 * GIB) if gpu else 150 * MIB,
        host=table + GIB if gpu else 0,
        on_gpu=gpu,
    )
