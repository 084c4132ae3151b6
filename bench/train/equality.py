"""Whether we train what the classic step trains: one step's gradient, and the losses of 50 steps.

    python -m bench.train.equality --base FOLDER --cell 1024 [--steps 50] [--cap 7.5] [--precision bf16,fp32]

The classic step is 1 x 8 in the family's own layers under PEFT. Its distance to 2 x 4 of the same code is the
yardstick: in 16 bits no two orders of summation agree.

--against fp32 takes the classic step in float32, and has the distance of the classic step in 16 bits, too: which one is
nearer to what both round. --classic FILE takes the classic losses of an earlier call from its line there, instead of
taking those steps again.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.train.cells import CELLS, Cell, vocabulary
from bench.train.meter import limit_memory
from bench.train.ours import sets, trainer_for

PLAIN = ("training.fused_layers=false",)
SMALL = ("training.fused_layers=true", "training.checkpointed_layers=1000", "training.dequantized_base=false")
WHOLE = ("training.fused_layers=true", "training.checkpointed_layers=0", "training.dequantized_base=false")
# Ours as planned, and as on a small card: each layer's MLP computed again from a base that is dequantized each time,
# what attention made waiting in host memory, and with that computed again, too. The last three show by --kinds that the
# way to host memory leaves a gradient's bits as they are.
USUAL = ("2x4", "ours, attention kept", "ours", "ours, recomputed")
KINDS: dict[str, tuple[str, ...]] = {
    "1x8": PLAIN,
    "2x4": PLAIN,
    "ours, attention kept": (*SMALL, "training.keep_attention=true", "training.offload_activations=true"),
    "ours": ("training.fused_layers=true",),
    "ours, recomputed": (*SMALL, "training.keep_attention=false", "training.offload_activations=false"),
    "ours, inputs in host memory": (*SMALL, "training.keep_attention=false", "training.offload_activations=true"),
    "ours, all kept": (*WHOLE, "training.offload_activations=false"),
    "ours, all kept in host memory": (*WHOLE, "training.offload_activations=true"),
}
PRECISIONS: dict[str, tuple[str, ...]] = {
    "bf16": (),
    "fp32": ("training.bf16=false", "quantization.bnb_4bit_compute_dtype=float32", "training.optim=adamw_torch"),
}


def collator(rows_at_once: int) -> Any:
    """The classic micro-batches: so many rows, padded to the longest."""
    from halops.train.packing import StepCollator
    from halops.train.rows import collate

    class Classic(StepCollator):
        def __call__(self, rows: Any) -> dict[str, Any]:
            parts = [rows[at : at + rows_at_once] for at in range(0, len(rows), rows_at_once)]
            made = [{name: value for name, value in collate(part).items() if name != "lengths"} for part in parts]
            tokens = sum(len(row.input_ids) for row in rows)
            return {"micro_batches": made, "tokens": tokens, "trained": sum(len(part["trained"]) for part in made)}

    return Classic(1, end_to_end=False)


def train(base: Path, cell: Cell, vocab: int, steps: int, kind: str, precision: str) -> tuple[list[float], list[Any]]:
    """Losses of so many steps, and the gradients of the first one, in float32 on the CPU."""
    import torch
    from transformers import TrainerCallback

    class First(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        gradients: list[Any] = []

        def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            if state.global_step == 0:
                parameters = [item for item in model.parameters() if item.requires_grad]
                self.gradients = [item.grad.detach().float().cpu().clone() for item in parameters]

    first = First()
    with tempfile.TemporaryDirectory() as name:
        given = [*sets(cell, steps, 0.0), "training.max_grad_norm=1e9", *KINDS[kind], *PRECISIONS[precision]]
        _, trainer, watch = trainer_for(Path(name), base, cell, vocab, given)
        _nonzero(trainer.model)
        if KINDS[kind] == PLAIN:
            trainer.data_collator = collator(1 if kind == "1x8" else 2)
        trainer.add_callback(first)
        trainer.train()
        losses = [record.loss for record in watch.history.records]
    del trainer
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return losses, first.gradients


def _nonzero(model: Any) -> None:
    """B starts at zero, and so would A's gradient: begin a little further on, the same for all."""
    import torch

    generator = torch.Generator().manual_seed(9)
    for name, item in model.named_parameters():
        if "lora_B" in name:
            item.data.copy_(torch.randn(item.shape, generator=generator) * 0.01)


def gap(found: list[Any], expected: list[Any]) -> float:
    """Relative, over all gradients together."""
    above = sum(float((one - other).double().pow(2).sum()) for one, other in zip(found, expected, strict=True))
    below = sum(float(other.double().pow(2).sum()) for other in expected)
    return float((above / below) ** 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.train.equality", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--cell", default="1024", choices=list(CELLS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--cap", type=float, default=0, help="GiB; the classic step of full rows needs no cap")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--against", choices=list(PRECISIONS), help="precision of the classic step, if another")
    parser.add_argument("--kinds", help="instead of the usual ones, such as '2x4;ours'")
    parser.add_argument("--classic", type=Path, help="compare with the losses in this file's last line of that kind")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kinds = options.kinds.split(";") if options.kinds else list(USUAL)
    # Beside another precision the classic step is measured, too; a known one's yardstick is in its line.
    kinds = list(dict.fromkeys(["1x8"] * bool(options.against) + ["2x4"] * bool(options.classic) + kinds))
    if not {"2x4"} <= set(kinds) <= set(KINDS):
        parser.error(f"--kinds takes 2x4, the yardstick, and others of: {'; '.join(KINDS)}")
    limit_memory(options.cap)
    good = True
    for precision in options.precision.split(","):
        what = {"cell": options.cell, "steps": options.steps, "precision": precision}
        what |= {"against": options.against} if options.against else {}
        known = classic(options.classic, what) if options.classic else None
        if options.classic and known is None:
            parser.error(f"{options.classic} has no line of {what}")
        given = (options.base, CELLS[options.cell], vocabulary(options.base), options.steps, precision)
        result = {**what, **compare(*given, options.against or precision, kinds, known)}
        good &= all(result[kind]["loss"] <= 2 * result["2x4"]["loss"] for kind in result if kind.startswith("ours"))
        print("RESULT " + json.dumps(result), flush=True)
        if options.out:
            with options.out.open("a") as stream:
                stream.write(json.dumps(result) + "\n")
    return 0 if good else 1


def classic(file: Path, what: dict[str, Any]) -> dict[str, Any] | None:
    """The last line in a file of results that measured the same."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    alike = (line for line in reversed(lines) if line.get("against") == what.get("against"))
    return next((line for line in alike if what.items() <= line.items()), None)


def compare(
    base: Path, cell: Cell, vocab: int, steps: int, precision: str, against: str, kinds: list[str],
    known: dict[str, Any] | None,
) -> dict[str, Any]:  # fmt: skip
    """Each kind's distance to the classic step: of the first gradient, relative, and of the losses, in nats; of the
    losses alone where the classic ones are `known`."""
    classic_step = "1x8" if against == precision else f"1x8 {against}"
    if known:
        losses, gradients = known["losses"][classic_step], None
    else:
        losses, gradients = train(base, cell, vocab, steps, "1x8", against)
    result: dict[str, Any] = {"losses": {classic_step: losses}, **({"2x4": known["2x4"]} if known else {})}
    for kind in kinds:
        if kind in result:
            continue
        result["losses"][kind], found = train(base, cell, vocab, steps, kind, precision)
        apart = [abs(one - other) for one, other in zip(result["losses"][kind], losses, strict=True)]
        result[kind] = {"loss": sum(apart) / len(apart)} | ({"gradient": gap(found, gradients)} if gradients else {})
        said = ", ".join(f"{name} {value:.2e}" for name, value in result[kind].items())
        print(f"{precision} {kind} against {classic_step}: {said} (of the loss in nats)", flush=True)
    return result


if __name__ == "__main__":
    sys.exit(main())
