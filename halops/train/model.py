"""Loads the base for training: from safetensors alone, quantized as the profile says, with the chunked head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from halops.artifact import walk_files
from halops.errors import ConfigError, IntegrityError, ModelError
from halops.models.formats import refuse_pickle
from halops.profile import Profile
from halops.train import attention, liger
from halops.train.dequantized import hold_dequantized
from halops.train.head import install_chunked_head


@dataclass(frozen=True)
class Precision:
    """Dtypes of the unquantized weights, of 4-bit matrix products, and of the adapter."""

    weights: torch.dtype
    compute: torch.dtype
    adapter: torch.dtype


def precision(profile: Profile, cuda: bool) -> Precision:
    """What the profile asks for. On a CPU all is fp32: most compute 16-bit floats several times slower.

    With bf16 the adapter is bfloat16 too, as in the QLoRA paper; with fp16 it stays fp32, because the loss scaler
    can't work on fp16 gradients.
    """
    training = profile.training
    if not cuda:
        return Precision(torch.float32, torch.float32, torch.float32)
    compute: torch.dtype = getattr(torch, profile.quantization.bnb_4bit_compute_dtype)
    if training.bf16:
        return Precision(torch.bfloat16, compute, torch.bfloat16)
    return Precision(torch.float16 if training.fp16 else torch.float32, compute, torch.float32)


def read_config(base: Path) -> Any:
    """The model's config. Raises ModelError if it is no plain dense text decoder that we can train."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    check_files(base)
    try:
        config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"its config.json can't be used: {_first_line(error)}", where="base/config.json") from error
    problem = None
    if config.get_text_config() is not config:
        problem = "it has parts for images or sound"
    elif getattr(config, "is_encoder_decoder", False) or config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        problem = "it is no causal language model"
    elif getattr(config, "quantization_config", None) is not None:
        problem = "its weights are quantized already; name the model that it was made from"
    if problem:
        raise ModelError(f"the model ({config.model_type}) can't be trained here: {problem}", where="base/config.json")
    return config


def check_files(base: Path) -> None:
    """Raise ModelError unless the folder has safetensors, and no pickle under any name."""
    for _, path in walk_files(base):
        refuse_pickle(path)
    if not list(base.glob("*.safetensors")) or not (base / "config.json").is_file():
        raise ModelError("no config.json with *.safetensors", where="base", remedy="name a Hugging Face model folder")


def load_model(base: Path, config: Any, profile: Profile, cuda: bool) -> Any:
    """The base on its device, frozen, its forward pass returning a loss without logits.

    Raises ModelError (weights missing or of another shape, a head we don't know), IntegrityError (a torn file),
    ConfigError (a GPU without bfloat16).
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    if cuda and profile.training.bf16 and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(
            "this GPU has no bfloat16",
            ["training.bf16: true"],
            remedy="--set training.bf16=false --set training.fp16=true "
            "--set quantization.bnb_4bit_compute_dtype=float16",
        )
    logging.disable_progress_bar()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            base,
            config=config,
            dtype=precision(profile, cuda).weights,
            quantization_config=_quantization(profile, cuda),
            device_map={"": torch.cuda.current_device() if cuda else "cpu"},
            attn_implementation=attention_for(config, profile.training.max_seq_length),
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # we name them ourselves, below
        )
    except SafetensorError as error:
        raise IntegrityError(f"a weights file can't be read: {error}", where="base") from error
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"the model can't be loaded: {_first_line(error)}", where="base") from error
    odd = (*info["missing_keys"], *info["mismatched_keys"])
    missing = sorted(str(key[0] if isinstance(key, tuple) else key) for key in odd)
    if missing:
        raise ModelError(
            f"{len(missing)} weights are missing or of another shape: {', '.join(missing[:5])}", where="base"
        )
    model.requires_grad_(False)
    _no_repacking(model)
    if not cuda and profile.quantization.load_in_4bit:
        hold_dequantized(model)
    install_chunked_head(model)
    return model


def apply_liger(config: Any, cuda: bool) -> bool:
    """Patch the family on CUDA, before loading; its kernels don't run on a CPU."""
    return cuda and liger.apply(config.model_type)


def _quantization(profile: Profile, cuda: bool) -> Any:
    """bitsandbytes' settings, or None for plain LoRA. The head stays as it is: that is bitsandbytes' default."""
    from transformers import BitsAndBytesConfig

    if not profile.quantization.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=profile.quantization.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=profile.quantization.bnb_4bit_use_double_quant,
        bnb_4bit_compute_dtype=precision(profile, cuda).compute,
    )


def attention_for(config: Any, longest: int) -> str:
    """Ours, by rows. transformers' own where a family caps its scores, which SDPA leaves out, or where a layer sees
    fewer tokens back than the longest row has."""
    if getattr(config, "attn_logit_softcapping", None):
        return "eager"
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention"])
    window = getattr(config, "sliding_window", None)
    if kinds - {"full_attention", "sliding_attention"} or (
        "sliding_attention" in kinds and (window or longest) < longest
    ):
        return "sdpa"
    return attention.register()


def _no_repacking(model: Any) -> None:
    """Keep bitsandbytes from repacking weights for AVX512-BF16 while evaluating: that can't be undone for training."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:300] or type(error).__name__
