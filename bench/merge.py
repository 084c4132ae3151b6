"""The merge beside PEFT's and beside `cp`: one synthetic model of Qwen2.5-7B's dimensions, one run, cold caches.

    python -m bench.merge [--layers 28] [--folder DIR] [--json FILE]

Each contestant is a fresh process, and is done when its files are on the disk. Outputs are removed as it goes: the
disk holds the base and one output, 31 GB for all 28 layers. Exit code 1 means that a bar was missed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

HIDDEN, INTERMEDIATE, KV, VOCAB, LAYERS = 3584, 18944, 512, 152064, 28
RANK, ALPHA = 16, 32
SHARD_BYTES: Final = 4 * 10**9
# PEFT takes minutes, so once; the others on both sides of it.
ORDER: Final = ("cp", "halops", "peft", "halops", "cp")
BAR_PEFT, BAR_CP = 3.0, 2.5
BAR_RSS: Final = VOCAB * HIDDEN * 4 * 1.5 + 500e6
MODULES: Final = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
    "mlp.up_proj": (INTERMEDIATE, HIDDEN),
    "mlp.down_proj": (HIDDEN, INTERMEDIATE),
}


@dataclass(frozen=True)
class Run:
    """One contestant, once. Load is the machine's load average (1 minute) as it started."""

    name: str
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    load: float


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of a Qwen2 model of these dimensions."""
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCAB, HIDDEN)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        found |= {f"{prefix}{name}.weight": shape for name, shape in MODULES.items()}
        found |= {f"{prefix}self_attn.{x}_proj.bias": MODULES[f"self_attn.{x}_proj"][:1] for x in "qkv"}
        found |= {f"{prefix}{name}_layernorm.weight": (HIDDEN,) for name in ("input", "post_attention")}
    return found | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCAB, HIDDEN)}


def make_base(folder: Path, layers: int) -> None:
    """Write the base in bfloat16 shards: random numbers, one block of them over and over."""
    import numpy as np

    folder.mkdir(parents=True)
    block = np.random.default_rng(0).standard_normal(1 << 22, np.float32) * 0.02
    data = (block.view(np.uint32) >> 16).astype(np.uint16).data.cast("B")
    groups: list[dict[str, tuple[int, ...]]] = [{}]
    for name, shape in shapes(layers).items():
        if groups[-1] and sum(2 * math.prod(s) for s in groups[-1].values()) + 2 * math.prod(shape) > SHARD_BYTES:
            groups.append({})
        groups[-1][name] = shape
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        file = f"model-{number:05}-of-{len(groups):05}.safetensors"
        write_safetensors(folder / file, group, data)
        weight_map |= dict.fromkeys(group, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "dtype": "bfloat16", "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE, "num_hidden_layers": layers, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": VOCAB, "tie_word_embeddings": False,
    }))  # fmt: skip


def write_safetensors(path: Path, group: dict[str, tuple[int, ...]], data: memoryview) -> None:
    """A bfloat16 file of those shapes, filled by repeating `data`; each tensor begins elsewhere in it."""
    entries, position = {}, 0
    for name, shape in group.items():
        size = 2 * math.prod(shape)
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": (position, position + size)}
        position += size
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(8, "little") + header)
        left, start = position, 0
        while left:
            part = data[start : start + left]
            stream.write(part)
            left -= len(part)
            start = (start + 2 * 7919) % (len(data) // 2)
        os.fsync(stream.fileno())


def make_adapter(folder: Path, layers: int) -> None:
    """Write a rank-16 adapter on all seven projections, float32, as PEFT stores one."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    tensors = {}
    for layer in range(layers):
        for name, (rows, columns) in MODULES.items():
            key = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{key}.lora_A.weight"] = rng.standard_normal((RANK, columns), np.float32) * np.float32(0.02)
            tensors[f"{key}.lora_B.weight"] = rng.standard_normal((rows, RANK), np.float32) * np.float32(0.01)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "bias": "none",
        "target_modules": [name.split(".")[1] for name in MODULES], "base_model_name_or_path": None,
    }))  # fmt: skip


def merge_halops(base: Path, adapter: Path, output: Path) -> None:
    """HALops' merge, to float16."""
    from halops.merge.merge import merge_adapter

    merge_adapter(base, adapter, output)


def merge_peft(base: Path, adapter: Path, output: Path) -> None:
    """PEFT's merge with the base in bfloat16: in float32 a 7B model would need 31 GB of memory."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)
    for path in output.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


CONTESTANTS: Final = {"halops": merge_halops, "peft": merge_peft}


def command(name: str, base: Path, adapter: Path, output: Path) -> list[str]:
    """The argv of one contestant."""
    if name == "cp":
        script = 'mkdir "$2" && cp "$1"/*.safetensors "$2" && sync "$2"/*'
        return ["sh", "-c", script, "cp", str(base), str(output)]
    return [sys.executable, "-m", "bench.merge", "--contestant", name, str(base), str(adapter), str(output)]


def drop_caches(folders: Sequence[Path]) -> str:
    """Empty the page cache, of everything if we may, else of these folders' files. Returns how."""
    os.sync()
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/drop_caches").write_text("3")
        return "drop_caches"
    for path in (path for folder in folders for path in folder.iterdir()):
        with path.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return "posix_fadvise(DONTNEED)"


def measure(name: str, base: Path, adapter: Path, output: Path) -> Run:
    """Run one contestant in its own process; its output stays."""
    # Settings for old OpenBLAS builds would slow numpy's own.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    load, began = os.getloadavg()[0], time.monotonic()
    process = subprocess.Popen(command(name, base, adapter, output), env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{name} ended with {process.returncode}")
    return Run(name, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, load)


def measure_all(work: Path, layers: int) -> Iterator[Run | str]:
    """Every run of ORDER; sentences about what was measured come in between."""
    base, adapter, output = work / "base", work / "adapter", work / "output"
    # In processes of their own: a child's peak memory is at least what its parent has when it starts.
    helper("make", base, adapter, output, layers)
    size = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    yield f"{layers} layers, {size / 1e9:.2f} GB in bfloat16, rank {RANK} on {len(MODULES)} projections a layer"
    proved = False
    for name in ORDER:
        how = drop_caches((base, adapter))
        run = measure(name, base, adapter, output)
        print(f"  {name}: {run.seconds:.1f} s, CPU {run.cpu_seconds:.1f} s, load {run.load:.1f}", file=sys.stderr)
        yield run
        if name == "halops" and not proved:
            proved = True
            yield helper("prove", base, adapter, output, layers).strip()
        shutil.rmtree(output)
    yield f"caches emptied before each by {how}"


def helper(name: str, base: Path, adapter: Path, output: Path, layers: int) -> str:
    """Run "make" or "prove" in a process of its own. Returns what it printed."""
    argv = [*command(name, base, adapter, output), "--layers", str(layers)]
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def prove(base: Path, adapter: Path, output: Path) -> str:
    """Have the second reader check the timed output."""
    from halops.merge.proof import prove_merge

    proof = prove_merge(base, adapter, output, sample=8)
    if proof.failures or proof.unchanged:
        raise SystemExit(f"the merge is wrong: {proof}")
    return f"the second reader agrees with all {proof.checked} tensors"


def mean(runs: Sequence[Run], name: str) -> float:
    """Mean seconds of one contestant."""
    found = [run.seconds for run in runs if run.name == name]
    return sum(found) / len(found)


def table(runs: Sequence[Run], layers: int) -> str:
    """The results as Markdown."""
    size = sum(2 * math.prod(shape) for shape in shapes(layers).values()) / 1e9
    lines = ["| | seconds, each run | mean | GB/s of output | CPU seconds | peak memory | load before |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name in dict.fromkeys(ORDER):
        own = [run for run in runs if run.name == name]
        each = ", ".join(f"{run.seconds:.1f}" for run in own)
        cpu, load = (", ".join(f"{value:.1f}" for value in values) for values in (
            [run.cpu_seconds for run in own], [run.load for run in own]))  # fmt: skip
        rss, seconds = max(run.peak_rss_bytes for run in own) / 1e9, mean(runs, name)
        lines.append(f"| {name} | {each} | {seconds:.1f} | {size / seconds:.2f} | {cpu} | {rss:.2f} GB | {load} |")
    return "\n".join(lines)


def bars(runs: Sequence[Run]) -> list[tuple[str, bool]]:
    """What must hold, in words, and whether it does."""
    peft, cp = mean(runs, "peft") / mean(runs, "halops"), mean(runs, "halops") / mean(runs, "cp")
    rss = max(run.peak_rss_bytes for run in runs if run.name == "halops")
    return [
        (f"{peft:.1f} x faster than PEFT (bar: at least {BAR_PEFT:g})", peft >= BAR_PEFT),
        (f"{cp:.2f} x the time of cp (bar: at most {BAR_CP:g})", cp <= BAR_CP),
        (f"{rss / 1e9:.2f} GB of memory (bar: at most {BAR_RSS / 1e9:.2f})", rss <= BAR_RSS),
    ]


def run_child(name: str, base: Path, adapter: Path, output: Path, *, layers: int) -> None:
    """What a process that this one started does."""
    if name == "make":
        make_base(base, layers)
        make_adapter(adapter, layers)
    elif name == "prove":
        print(prove(base, adapter, output))
    else:
        CONTESTANTS[name](base, adapter, output)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench, or one contestant of it."""
    parser = argparse.ArgumentParser(prog="bench.merge", description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--layers", type=int, default=LAYERS, help="fewer for a quick look; the model has 28")
    parser.add_argument("--folder", type=Path, default=Path("build/bench-merge"), help="on the disk to measure")
    parser.add_argument("--json", type=Path, help="write the results there too")
    parser.add_argument("--contestant", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.contestant:
        run_child(arguments.contestant[0], *map(Path, arguments.contestant[1:]), layers=arguments.layers)
        return 0
    shutil.rmtree(arguments.folder, ignore_errors=True)
    try:
        found = list(measure_all(arguments.folder, arguments.layers))
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    runs = [item for item in found if isinstance(item, Run)]
    notes = [item for item in found if isinstance(item, str)]
    verdicts = bars(runs)
    print("\n".join([table(runs, arguments.layers), "", *(f"- {note}" for note in notes),
                     *(f"- {'ok' if good else 'MISSED'}: {text}" for text, good in verdicts)]))  # fmt: skip
    if arguments.json:
        report: dict[str, Any] = {"runs": [asdict(run) for run in runs], "notes": notes, "bars": verdicts}
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(good for _, good in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
