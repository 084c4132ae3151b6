"""The processes that train together: which of them this is, and what they tell each other."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from halops.errors import TransientError


@dataclass(frozen=True)
class World:
    """One process by itself, or one of `size` on one or several nodes. Every method is called by all of them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that reports, saves and writes the output."""
        return self.rank == 0

    def sum(self, *values: float) -> list[float]:
        """Each value, added up over all processes in float64."""
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(value) for value in tensor.tolist()]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in one of them."""
        return self.sum(float(flag))[0] > 0

    def gather(self, value: Any) -> list[Any]:
        """Everybody's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Go on when all are here."""
        self.sum(0.0)

    @property
    def device(self) -> torch.device:
        """Where the processes' messages live."""
        return torch.device("cuda", self.local_rank) if dist.get_backend() == "nccl" else torch.device("cpu")

    def require_same_step(self, step: int) -> None:
        """Raise TransientError unless all go on from the same checkpoint."""
        steps = self.gather(step)
        if len(set(steps)) > 1:
            raise TransientError(
                f"the nodes hold checkpoints of different steps: {', '.join(str(item) for item in sorted(set(steps)))}",
                remedy="one of them looked before the last checkpoint was stored; the next attempt finds it",
            )


ALONE = World()


def this_world() -> World:
    """What torchrun says of this process."""
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    return World(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")))


def join(world: World, seconds: float) -> None:
    """Make a process group of all processes: NCCL on GPUs, gloo elsewhere.

    Args:
        seconds: that one waits for another before it gives up.
    """
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(world.local_rank)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=seconds))


def leave() -> None:
    """The other way about, when all have done their part."""
    dist.destroy_process_group()
