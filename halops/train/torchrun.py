"""torchrun as a child of the harness: it ends with its parent, and reports a dead process in one line.

python -m halops.train.torchrun PARENT_PID [torchrun's own arguments]
"""

from __future__ import annotations

import logging
import sys

from halops.process import die_with_parent


def main(argv: list[str]) -> int:
    """Run torchrun until its processes have ended; 1 if one of them failed."""
    die_with_parent(int(argv[0]))
    logging.disable(logging.ERROR)  # its own account of a dead process takes a screen
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(argv[1:]))  # type: ignore[no-untyped-call, unused-ignore]
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"was ended by {failure.signal_name()}" if failure.exitcode < 0 else f"ended with {failure.exitcode}"
        return _failed(f"training process {rank} {how}; the others were stopped")
    except (RuntimeError, RendezvousError) as error:  # a timeout's class differs with the version
        return _failed(f"the nodes did not find each other: {str(error).strip().splitlines()[0][:300]}")
    return 0


def _failed(text: str) -> int:
    print(text, file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
