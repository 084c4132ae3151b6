"""How a training spends memory: what the planner chooses, what the out-of-memory ladder takes back."""

from __future__ import annotations

from halops.artifact import Frozen
from halops.errors import GpuMemoryError

# The ladder's rungs for every profile: whether each moves things to host memory. See `rungs`.
HOST_RUNGS = (False, False, False, True, True)


class MemorySettings(Frozen):
    """None of these changes what is computed, but for rounding."""

    token_budget: int  # most tokens of a micro-batch; a longer row goes alone
    checkpointed_layers: int  # decoder layers that are computed again in the backward pass, the first ones
    keep_attention: bool = False  # of those only the MLP
    offload_activations: bool = False  # what is kept waits in host memory
    embedding_on_host: bool = False
    dequantized_base: bool = False  # the 4-bit base also as it is computed with, instead of dequantizing each time
    mlp_tokens: int = 4096  # most tokens that go through a layer's MLP at once

    def __str__(self) -> str:
        return self.words(self)

    def words(self, usual: MemorySettings) -> str:
        """In a line.

        Args:
            usual: those of a usual micro-batch, which may be smaller and have fewer layers computed again.
        """
        said = [f"{self.token_budget:,} tokens at a time", f"{self.checkpointed_layers} layers checkpointed"]
        if usual.checkpointed_layers < self.checkpointed_layers:
            said[-1] += f" ({usual.checkpointed_layers} in a usual {usual.token_budget:,} tokens)"
        said += ["their attention kept"] * self.keep_attention
        said += ["base dequantized once"] * self.dequantized_base
        said += ["activations in host memory"] * self.offload_activations
        said += ["embedding in host memory"] * self.embedding_on_host
        return ", ".join(said)


def rungs(planned: MemorySettings, longest: int, layers: int) -> tuple[MemorySettings, ...]:
    """What to try, in turn, as memory runs out; what would change nothing is left out.

    Half the token budget with every layer computed again and no second copy of the base; a quarter; one row at a time;
    activations in host memory; the embedding too. All train on the same rows a step.

    Args:
        longest: tokens of the longest row.
        layers: decoder layers of the model.
    """
    made = [planned]
    for budget in (planned.token_budget // 2, planned.token_budget // 4):
        made.append(
            made[-1].model_copy(
                update={
                    "token_budget": max(longest, budget),
                    "checkpointed_layers": layers,
                    "keep_attention": False,
                    "dequantized_base": False,
                }
            )
        )
    alone = made[-1].model_copy(update={"token_budget": longest, "offload_activations": True})
    made += [alone, alone.model_copy(update={"embedding_on_host": True})]
    return tuple(dict.fromkeys(made))


def settings_at(
    planned: MemorySettings, longest: int, layers: int, rung: int, *, oom_killed: bool = False
) -> MemorySettings:
    """The settings that many rungs down. Raises GpuMemoryError past the end of the ladder.

    Args:
        oom_killed: host memory ran out before: rungs that move more there than was planned are left out. Past the last
            of the others it is that one again; whoever counts the attempts ends them.
    """
    found = rungs(planned, longest, layers)
    if oom_killed:
        found = tuple(item for item in found if _on_host(item) <= _on_host(planned))
        rung = min(rung, len(found) - 1)
    if rung >= len(found):
        raise GpuMemoryError(
            f"out of memory at every rung, down to one row of up to {longest} tokens at a time with its activations "
            "and the embedding in host memory",
            remedy="a card with more memory, or shorter rows: --set training.max_seq_length=512",
        )
    return found[rung]


def _on_host(settings: MemorySettings) -> set[str]:
    """What waits in host memory."""
    return {name for name in ("offload_activations", "embedding_on_host") if getattr(settings, name)}
