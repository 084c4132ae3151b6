"""The exception tree. Each branch has one exit code, the same for a stage and for the CLI.

    HalopsError                   1   any error that is ours; never raised bare
    |-- NotFoundError             3   a run, file, checkpoint or model that isn't there
    |-- BusyError                 4   somebody else holds it: a run's lock, a port
    |   `-- Conflict              4   the API server: it exists already, or was changed meanwhile
    |-- HostError                 5   this machine: disk full, a missing tool, a failed build
    |-- StageError                6   a stage ended with a code of no other meaning
    |-- VerificationError         7   the chain's result did not pass its checks
    |-- ConfigError              42   the user's configuration is wrong (collects all problems)
    |   |-- DataError            42   the user's data is wrong
    |   `-- ModelError           42   the model can't be used: unsupported, or a pickle
    |-- IntegrityError           43   bytes don't match their digest
    |-- GpuMemoryError           44   CUDA out of memory, caught
    `-- TransientError           75   try again: a network or store fault
        |-- StoreUnavailable     75   the store can't be reached
        |-- ClusterUnavailable   75   the API server can't be reached
        `-- Interrupted          75   SIGTERM, after a checkpoint

A usage error (a wrong flag) is Click's, with code 2. 130 is Ctrl-C before anything was saved.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import ClassVar


class HalopsError(Exception):
    """What went wrong, where, and the remedy.

    Args:
        what: one sentence, naming the value at fault.
        where: a file, line, field path, key or URI.
        remedy: what the reader can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, where: str | None = None, remedy: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [self.what]
        if self.where:
            parts.append(f"  where:  {self.where}")
        if self.remedy:
            parts.append(f"  remedy: {self.remedy}")
        return "\n".join(parts)


class NotFoundError(HalopsError):
    """Something named by the user doesn't exist."""

    exit_code = 3


class BusyError(HalopsError):
    """Somebody else holds the thing that is needed."""

    exit_code = 4


class HostError(HalopsError):
    """This machine lacks something: disk, a tool, a compiler."""

    exit_code = 5


class StageError(HalopsError):
    """A stage ended with an exit code that has no meaning of its own."""

    exit_code = 6


class VerificationError(HalopsError):
    """The chain's result did not pass its checks."""

    exit_code = 7


class ConfigError(HalopsError):
    """The user's configuration is wrong. Carries every problem found, not only the first.

    Args:
        what: one sentence.
        problems: one line for each problem, each with its field path or line.
    """

    exit_code = 42

    def __init__(
        self,
        what: str,
        problems: Sequence[str] = (),
        *,
        where: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.problems = tuple(problems)

    def __str__(self) -> str:
        head, *rest = super().__str__().split("\n")
        return "\n".join([head, *(f"  - {problem}" for problem in self.problems), *rest])


class DataError(ConfigError):
    """The user's data is wrong."""


class ModelError(ConfigError):
    """The model can't be used: an unsupported kind, or a file that could run code."""


class IntegrityError(HalopsError):
    """Bytes don't match the digest that was promised for them."""

    exit_code = 43


class GpuMemoryError(HalopsError):
    """CUDA out of memory, caught."""

    exit_code = 44


class TransientError(HalopsError):
    """A fault that another try may not meet."""

    exit_code = 75


class StoreUnavailable(TransientError):
    """The store can't be reached, or refuses us."""


class Interrupted(TransientError):
    """Stopped on request, after saving what there was to save."""


class Stopped(BaseException):
    """A signal's handler asks to stop: no Exception, since libraries take those for failures of their own.

    botocore, where one arrives while it waits for an answer, would try the request again, and the signal be lost.
    """


def as_halops_error(error: BaseException) -> HalopsError | None:
    """What an exception means to the user, if it is one that the machine or the user caused."""
    if isinstance(error, HalopsError):
        return error
    if isinstance(error, Stopped):
        return Interrupted(str(error), remedy="the same command goes on from here")
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("stopped by Ctrl-C", remedy="the same command goes on from here")
    if isinstance(error, MemoryError):
        return HostError("out of memory", remedy="close other programs, or use a machine with more memory")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HostError("the disk is full", where=str(error.filename or ""), remedy="free some space and run again")
    if isinstance(error, PermissionError):
        return HostError("permission denied", where=str(error.filename or ""), remedy="check the owner and the mode")
    return None
