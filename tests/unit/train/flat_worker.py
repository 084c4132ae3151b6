"""A training process with bitsandbytes' optimizer, on a CPU too, and so with the adapter in one piece: started in place
of `halops.train.worker`."""

from __future__ import annotations

import sys
from typing import Any

from halops.train import arguments, trainer, worker
from halops.train.flat import Flat, flatten

OPTIMIZER = "paged_adamw_8bit"


def flattened(optimizer: Any) -> Flat:
    made = flatten(optimizer)
    assert made, "the adapter stayed in parts"
    return made


if __name__ == "__main__":
    arguments.CPU_OPTIMIZERS = frozenset({OPTIMIZER})
    trainer.flatten = flattened
    worker.main(sys.argv[1:])
