"""Software: Python packages by stage, and llama.cpp or what builds it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable

from halops.checks.base import Check, fail, ok, warn
from halops.errors import HostError, StageError

# Extra of halops -> the modules that its stages import. tests/unit/checks compares it with pyproject.toml.
MODULES: dict[str, tuple[str, ...]] = {
    "data": ("numpy", "tokenizers", "jinja2"),
    "train": ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "safetensors",
              "tensorboard", "gguf", "sentencepiece", "google.protobuf"),
    "merge": ("safetensors", "threadpoolctl"),
    "convert": ("torch", "transformers", "safetensors", "ml_dtypes", "sentencepiece", "google.protobuf", "gguf"),
}  # fmt: skip
GPU_MODULES = ("liger_kernel",)


def present(module: str) -> bool:
    """Whether a module can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def packages(gpu: bool, is_present: Callable[[str], bool] = present) -> list[Check]:
    """One line for all stages if everything is there, else one for each stage that lacks something."""
    checks = []
    for extra, modules in MODULES.items():
        wanted = modules + (GPU_MODULES if gpu and extra == "train" else ())
        missing = [module for module in wanted if not is_present(module)]
        if missing:
            checks.append(
                fail(f"packages: {extra}", f"missing: {', '.join(missing)}", f"pip install 'halops[{extra}]'")
            )
    return checks or [ok("packages", f"all there for {_listed(MODULES)}")]


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}"


def llama_cpp() -> Check:
    """A finished build, or what it takes to make one."""
    from halops.llamacpp.build import preflight
    from halops.llamacpp.toolchain import BUILD_COMMAND, Flavour, find, folder

    try:
        tools = find()
    except (HostError, StageError) as error:
        missing = error
    else:
        return ok("llama.cpp", f"built: {tools.identity}")
    if "isn't built yet" not in missing.what:  # HALOPS_LLAMA_CPP names something that doesn't serve
        return fail("llama.cpp", missing.what, missing.remedy or "")
    try:
        preflight(folder().parent, Flavour())
    except HostError as error:
        return fail("llama.cpp", error.what, error.remedy or "")
    return warn(
        "llama.cpp", "not built yet; a run builds it beside the training", f"{BUILD_COMMAND} does it beforehand"
    )
