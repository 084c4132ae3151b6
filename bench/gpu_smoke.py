"""The train stage on a CUDA machine: memory, speed, dtypes, kernels, faults. Needs no network and no model.

    python -m bench.gpu_smoke                          # 2 random layers of Qwen2.5-7B's dimensions, every case
    python -m bench.gpu_smoke --layers 28 --only whole,stopped
    python -m bench.gpu_smoke --only one,two,two-stopped,two-resumed     # two GPUs against one

A random base is made once, then each case is a process of its own under the memory cap of an 8 GB card. Beside torch
and transformers it needs bitsandbytes, liger-kernel, peft, accelerate, pydantic and pyyaml.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

QWEN25_7B = {
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_attention_heads": 28,
    "num_key_value_heads": 4, "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
TINY = QWEN25_7B | {"vocab_size": 4096, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
LENGTH = 1024


@dataclass(frozen=True)
class Case:
    """One process: overrides of rtx8, a memory cap in GiB, and the exit code that is right."""

    overrides: tuple[str, ...] = ()
    steps: int = 12
    cap: float = 7.5
    code: int = 0
    stop_at: int | None = None
    kept: str | None = None
    watch: bool = False


CASES = {
    "whole": Case(),
    "stopped": Case(stop_at=6, code=75, kept="shared"),
    "resumed": Case(kept="shared"),
    "logits": Case(steps=1, watch=True, overrides=("training.gradient_accumulation_steps=2",)),
    "offload": Case(steps=3, overrides=("training.offload_activations=true",)),
    "plain": Case(steps=3, overrides=("quantization.load_in_4bit=false",)),
    "fp16": Case(
        steps=3,
        overrides=("training.bf16=false", "training.fp16=true", "quantization.bnb_4bit_compute_dtype=float16"),
    ),
    "oom": Case(steps=2, cap=2.6, code=44),
}
# Several processes are not under the cap, which holds for this one alone. Masks of dropout would differ.
ALIKE = ("lora.lora_dropout=0", "training.gradient_accumulation_steps=16")
TWO = (*ALIKE, "cluster.gpu.count=2")
FP32 = ("training.bf16=false", "quantization.bnb_4bit_compute_dtype=float32", "training.optim=adamw_torch")
ON_TWO_GPUS = {
    "one-fp32": Case(cap=70, overrides=(*ALIKE, *FP32)),
    "two-fp32": Case(cap=70, overrides=(*TWO, *FP32)),
    "one": Case(steps=12, cap=70, overrides=ALIKE),
    "two": Case(steps=12, cap=70, overrides=TWO),
    "two-stopped": Case(steps=12, cap=70, overrides=TWO, stop_at=3, code=75, kept="two"),
    "two-resumed": Case(steps=12, cap=70, overrides=TWO, kept="two"),
}
ALIKE_CURVES = (("whole", "resumed"), ("one-fp32", "two-fp32"), ("one", "two"), ("two", "two-resumed"))


def make_base(folder: Path, layers: int, tiny: bool) -> None:
    """A random Qwen2 in bf16, as safetensors."""
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**(TINY if tiny else QWEN25_7B), num_hidden_layers=layers)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)


def make_rows(folder: Path, length: int, vocab: int) -> None:
    """Rows of `length` random ids; loss on their second half."""
    folder.mkdir(parents=True, exist_ok=True)
    choose = random.Random(0)
    for name, count in (("train", 128), ("heldout", 8)):
        with (folder / f"{name}.jsonl").open("w") as stream:
            for _ in range(count):
                ids = [choose.randrange(vocab) for _ in range(length)]
                stream.write(json.dumps({"input_ids": ids, "trained": [[length // 2, length]]}) + "\n")
    (folder / "chat_template.jinja").write_text("")


def child(name: str, work: Path, length: int) -> int:
    """Run one case in this process; returns its exit code and leaves result.json."""
    import threading

    import torch

    from halops.errors import HalopsError
    from halops.profile import load_profile
    from halops.progress import Progress
    from halops.runspec import BaseRef, DatasetRef, RunSpec
    from halops.stages.context import StageContext
    from halops.stages.train import run
    from halops.train.checkpoints import LocalCheckpoints

    case, folder, stop = case_of(name), work / name, threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(case.cap * 2**30 / total)
    sets = (f"training.max_steps={case.steps}", "training.save_steps=5", "training.logging_steps=1",
            f"training.max_seq_length={length}", *case.overrides)  # fmt: skip
    spec = RunSpec(
        name="smoke", profile=load_profile("rtx8", sets), base=BaseRef(uri="file:///base#sha256=00"),
        dataset=DatasetRef(uri="rows", sha256="0" * 64, size=1), llama_cpp="none",
    )  # fmt: skip

    def listen(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    context = StageContext(
        spec=spec, inputs=work / "inputs", output=folder / "output", scratch=folder / "scratch", stop=stop,
        progress=Progress(None, listen),
        checkpoints=LocalCheckpoints(work / (case.kept or f"kept-{name}")),
    )  # fmt: skip
    for path in (context.output, context.scratch):
        path.mkdir(parents=True)
    watch = largest_tensor()
    try:
        if case.watch:
            with watch:
                metrics = run(context)
        else:
            metrics = run(context)
    except HalopsError as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        return error.exit_code
    reserved = torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0
    result = {"metrics": metrics, "reserved": reserved, "largest": [watch.elements, watch.operation]}
    (folder / "result.json").write_text(json.dumps(result))
    return 0


def largest_tensor() -> Any:
    """A dispatch mode that remembers the largest vocabulary-wide tensor that is made under it."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
        elements, operation = 0, ""

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            for item in torch.utils._pytree.tree_leaves(result):
                if isinstance(item, torch.Tensor) and _vocabulary_wide(item) and item.numel() > self.elements:
                    self.elements, self.operation = item.numel(), f"{func} {tuple(item.shape)}"
            return result

    def _vocabulary_wide(item: torch.Tensor) -> bool:
        wide = item.dim() >= 2 and item.shape[-1] == QWEN25_7B["vocab_size"]
        return wide and item.shape[0] != QWEN25_7B["hidden_size"]  # that is the head itself

    return Largest()  # type: ignore[no-untyped-call]


def start(name: str, work: Path, length: int) -> tuple[int, list[dict[str, Any]], str]:
    """Run one case in a process; send SIGTERM at its step. Returns exit code, events, and the last lines."""
    shutil.rmtree(work / name, ignore_errors=True)
    argv = [sys.executable, "-m", "bench.gpu_smoke", "--child", name, "--work", str(work), "--length", str(length)]
    process = subprocess.Popen(argv, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    events, lines = [], []
    assert process.stdout
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("{"):
            events.append(json.loads(line))
            if events[-1]["message"] == "training" and events[-1]["metrics"]["step"] == case_of(name).stop_at:
                process.send_signal(signal.SIGTERM)
    return process.wait(), events, "\n".join(lines[-25:])


def report(name: str, work: Path, code: int, events: list[dict[str, Any]], tail: str, seconds: float) -> bool:
    """Print what a case showed; True if it ended as it should."""
    case = case_of(name)
    good = code == case.code
    print(
        f"\n== {name}: exit {code}, {'as expected' if good else f'EXPECTED {case.code}'}, {seconds:.0f} s",
        flush=True,
    )
    rates = [event["metrics"]["tokens_per_second"] for event in events if event["message"] == "training"]
    if rates:
        print(f"   {statistics.median(rates[2:] or rates):,.0f} tok/s (median after two steps; {len(rates)} steps)")
    if not good or code:
        print("   " + tail.replace("\n", "\n   "))
    path = work / name / "result.json"
    if path.is_file():
        result = json.loads(path.read_text())
        summary = json.loads((work / name / "output" / "summary.json").read_text())
        metrics = result["metrics"]
        print(f"   peak {metrics['memory_bytes'] / 2**30:.2f} GiB allocated, {result['reserved'] / 2**30:.2f} reserved")
        print(f"   held-out {metrics['heldout_loss_base']:.4f} -> {metrics['heldout_loss']:.4f}, "
              f"resumed from {metrics['resumed_from_step']}, rung {metrics['oom_rung']}")  # fmt: skip
        print(f"   dtypes {summary['dtypes']}, liger {summary['liger']}")
        print(f"   census {json.dumps(summary['census'])}")
        if case.watch:
            print(f"   largest vocabulary-wide tensor: {result['largest']}")
            good = good and 0 < result["largest"][0] < LENGTH * QWEN25_7B["vocab_size"]
    return good


def compare(work: Path) -> None:
    """Curves that should be one curve; kernels on CUDA need not be bit-exact."""
    for one, other in ALIKE_CURVES:
        curves = [work / name / "output" / "history.jsonl" for name in (one, other)]
        if all(path.is_file() for path in curves):
            losses = [[json.loads(line)["loss"] for line in path.read_text().splitlines()] for path in curves]
            gaps = [abs(left - right) for left, right in zip(*losses, strict=False)]
            print(
                f"\n{other} against {one}: differences of the steps' losses {', '.join(f'{gap:.1e}' for gap in gaps)}"
            )
            print(f"   {one}: {', '.join(f'{loss:.3f}' for loss in losses[0])}")


def case_of(name: str) -> Case:
    return (CASES | ON_TWO_GPUS)[name]


def main() -> int:
    """Make the base, run the cases, say whether all ended as they should."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_smoke", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--work", type=Path, default=Path("/tmp/gpu-smoke"), help="scratch folder")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens of a row")
    parser.add_argument("--only", default=",".join(CASES), help="cases, by name")
    parser.add_argument("--tiny", action="store_true", help="small dimensions, to try this program on a CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.work, options.length)
    shutil.rmtree(options.work, ignore_errors=True)
    clock = time.monotonic()
    make_base(options.work / "inputs" / "base", options.layers, options.tiny)
    make_rows(options.work / "inputs" / "data", options.length, (TINY if options.tiny else QWEN25_7B)["vocab_size"])
    print(f"base of {options.layers} layers made in {time.monotonic() - clock:.0f} s", flush=True)
    good = True
    for name in options.only.split(","):
        clock = time.monotonic()
        code, events, tail = start(name, options.work, options.length)
        good &= report(name, options.work, code, events, tail, time.monotonic() - clock)
    compare(options.work)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
