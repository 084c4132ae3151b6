"""Plan: RunSpec -> ordered Steps. Pure; the backend decides only where each step runs."""

from __future__ import annotations

from halops.artifact import Frozen
from halops.names import RUNS, FastStage, Stage
from halops.runspec import RunSpec

TOKENIZER_FILES = (
    "tokenizer*", "special_tokens_map.json", "chat_template*", "additional_chat_templates/*", "config.json",
    "added_tokens.json", "vocab.json", "merges.txt", "generation_config.json",
)  # fmt: skip

# Stage -> the image that has what it imports. `merge` is the light one.
IMAGES = {
    "base": "merge", "data": "merge", "train": "train", "merge": "merge", "convert": "convert", "verify": "convert",
    "base-gguf": "convert", "adapter-gguf": "convert",
}  # fmt: skip


class Input(Frozen):
    """One input of a step: a folder of its inputs, filled from the store.

    `step` names an upstream step whose manifest lists the files; `only` are glob patterns on their paths,
    where the step needs but a few of them (a tokenizer without the weights, say).
    """

    step: str
    only: tuple[str, ...] = ()


class Step(Frozen):
    """One stage of one run: what runs, from what, and where its manifest goes."""

    stage: Stage | FastStage
    prefix: str
    inputs: tuple[Input, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether what it makes is the same for every run of that base."""
        return self.stage in ("base", "base-gguf")

    @property
    def argv(self) -> list[str]:
        """The stage command, identical in a subprocess and in a pod, less `--spec` and `--store`."""
        return ["-m", "halops.stages.harness", self.stage]


class Plan(Frozen):
    """All steps of a run, in order."""

    run_id: str
    steps: tuple[Step, ...]

    def step(self, stage: str) -> Step:
        """The step of that stage."""
        return next(step for step in self.steps if step.stage == stage)


def image_of(spec: RunSpec, stage: str) -> str:
    """Which of the images (train, merge, convert) runs a stage."""
    if stage == "base" and spec.base.uri.partition("#")[0].endswith(".gguf"):
        return "train"  # which alone can dequantize it
    return IMAGES[stage]


def make_plan(spec: RunSpec) -> Plan:
    """The steps that turn `spec` into a verified endpoint's files."""
    run = f"{RUNS}/{spec.run_id}"
    tokenizer = Input(step="base", only=TOKENIZER_FILES)
    steps = (
        Step(stage="base", prefix=spec.base.prefix),
        Step(stage="data", prefix=f"{run}/data", inputs=(tokenizer,)),
        Step(stage="train", prefix=f"{run}/train", inputs=(Input(step="base"), Input(step="data"))),
        Step(stage="merge", prefix=f"{run}/merge", inputs=(Input(step="base"), Input(step="train"))),
        Step(
            stage="convert",
            prefix=f"{run}/convert",
            inputs=(Input(step="merge"), tokenizer, Input(step="train", only=("adapter/*",))),
        ),
        Step(stage="verify", prefix=f"{run}/verify", inputs=tuple(
            Input(step=name) for name in ("base", "data", "train", "merge", "convert"))),
    )  # fmt: skip
    return Plan(run_id=spec.run_id, steps=steps)


def fast_steps(spec: RunSpec) -> tuple[Step, Step]:
    """What `deploy --fast` serves before the run is merged: the base in GGUF, once, and the adapter as a GGUF LoRA."""
    kind, commit = spec.profile.serving.file, spec.llama_cpp.partition("+")[0]
    return (
        Step(stage="base-gguf", prefix=f"{spec.base.prefix}/gguf/{kind}-{commit}", inputs=(Input(step="base"),)),
        Step(
            stage="adapter-gguf",
            prefix=f"{RUNS}/{spec.run_id}/adapter-gguf",
            inputs=(Input(step="base", only=TOKENIZER_FILES), Input(step="train", only=("adapter/*",))),
        ),
    )


def step_of(spec: RunSpec, stage: str) -> Step:
    """The step of that stage, of the chain or beside it."""
    return next(step for step in (*make_plan(spec).steps, *fast_steps(spec)) if step.stage == stage)
