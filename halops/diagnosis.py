"""What a stage's end can mean: the categories, and the words for each exit code, signal and telling log line."""

from __future__ import annotations

import signal as signals
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from halops.artifact import Frozen


class Level(StrEnum):
    """How bad it is: `error` needs the reader; `warning` mends itself by another attempt."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Category(StrEnum):
    """What kind of thing went wrong. A stable contract: values are stored and matched on, never renamed."""

    DONE = "done"
    CONFIG = "config"
    INTEGRITY = "integrity"
    GPU_MEMORY = "gpu-memory"
    HOST_MEMORY = "host-memory"
    DISK_FULL = "disk-full"
    DRIVER = "driver"
    INTERRUPTED = "interrupted"
    UNREACHABLE = "unreachable"
    NATIVE_BUILD = "native-build"
    CRASH = "crash"
    KILLED = "killed"
    MISSING_DEPENDENCY = "missing-dependency"
    PORT_IN_USE = "port-in-use"
    NOT_FOUND = "not-found"
    BUSY = "busy"
    HOST = "host"
    VERIFICATION = "verification"
    USAGE = "usage"
    BUG = "bug"
    UNKNOWN = "unknown"
    # In a cluster.
    UNSCHEDULABLE = "unschedulable"
    IMAGE = "image"
    SETUP = "setup"  # something that pods refer to is missing: a Secret, a ServiceAccount, a class
    CREDENTIALS = "credentials"
    REFUSED = "refused"  # by an admission rule
    QUOTA = "quota"
    QUEUED = "queued"
    SUSPENDED = "suspended"
    EVICTED = "evicted"
    PREEMPTED = "preempted"
    NODE_LOST = "node-lost"
    NODE = "node"  # the node can't start containers
    DEADLINE = "deadline"


class Diagnosis(Frozen):
    """One sentence, the evidence, and what to do."""

    level: Level
    category: Category
    summary: str
    detail: str = ""
    resolution: str = ""


class Words(NamedTuple):
    level: Level
    category: Category
    summary: str
    resolution: str


_E, _W = Level.ERROR, Level.WARNING

# What each exit code of halops.errors says.
BY_CODE: dict[int, Words] = {
    2: Words(_E, Category.USAGE, "the command line was wrong", "`halops COMMAND --help` shows what is expected"),
    3: Words(_E, Category.NOT_FOUND, "something that it needs isn't there", "the log names what is missing"),
    4: Words(_E, Category.BUSY, "somebody else holds what it needs", "wait for the other run, or `halops cancel` it"),
    5: Words(_E, Category.HOST, "this machine lacks something it needs", "`halops doctor` names it and how to mend it"),
    6: Words(_E, Category.UNKNOWN, "the stage failed", "its log has the reason"),
    7: Words(
        _E, Category.VERIFICATION, "the model did not pass its checks", "`halops report` shows which, and by how much"
    ),
    42: Words(
        _E,
        Category.CONFIG,
        "the configuration or the data is wrong",
        "mend what the log lists; trying again won't help",
    ),
    43: Words(
        _E,
        Category.INTEGRITY,
        "an input's bytes don't match their digest",
        "nothing was used; delete the damaged stage or file, then `halops resume` makes it again",
    ),
    44: Words(
        _E,
        Category.GPU_MEMORY,
        "the GPU's memory ran out",
        "a smaller training.per_device_train_batch_size or max_seq_length; `halops plan` shows what would fit",
    ),
    70: Words(_E, Category.BUG, "HALops itself failed: this is a bug", "please report it with the log's last lines"),
    75: Words(_W, Category.INTERRUPTED, "interrupted; what was done is saved", "`halops resume` goes on from there"),
    130: Words(_W, Category.INTERRUPTED, "stopped by Ctrl-C", "the same command goes on from the last checkpoint"),
}

# What each signal says, when no line of the log says more.
BY_SIGNAL: dict[int, Words] = {
    signals.SIGTERM: Words(
        _W,
        Category.INTERRUPTED,
        "told to stop before it had anything to save",
        "`halops resume` starts the stage again",
    ),
    signals.SIGINT: Words(
        _W, Category.INTERRUPTED, "stopped by Ctrl-C", "the same command goes on from the last checkpoint"
    ),
    signals.SIGHUP: Words(
        _W,
        Category.INTERRUPTED,
        "its terminal went away",
        "`halops resume`; without --wait a run outlives its terminal",
    ),
    signals.SIGKILL: Words(
        _W,
        Category.KILLED,
        "killed from outside, most often because the machine's memory ran out",
        "`dmesg | grep -i oom` tells; free some memory, then `halops resume`",
    ),
    signals.SIGILL: Words(
        _E,
        Category.NATIVE_BUILD,
        "the processor refused an instruction: a program was built for another CPU",
        "build llama.cpp with GGML_NATIVE=OFF, as HALops does by itself; delete the cached build and run again",
    ),
    signals.SIGSEGV: Words(
        _E,
        Category.CRASH,
        "a native library crashed",
        "try again; if it crashes twice, report it with the log's last lines",
    ),
    signals.SIGABRT: Words(
        _E, Category.CRASH, "a native library gave up", "the log's last lines say which check failed"
    ),
    signals.SIGBUS: Words(
        _E,
        Category.DISK_FULL,
        "a memory-mapped file could not be read or grown",
        "most often the disk or /dev/shm is full, or the file was truncated: free some space, then `halops resume`",
    ),
    signals.SIGFPE: Words(
        _E, Category.CRASH, "a native library divided by zero", "report it with the log's last lines"
    ),
}


def _has(*needles: str) -> Callable[[str], bool]:
    return lambda line: any(needle in line for needle in needles)


# Lines of a log that say more than the code. The first rule with a matching line wins; its line is the detail.
BY_LINE: tuple[tuple[Callable[[str], bool], Words], ...] = (
    (_has("CUDA out of memory", "CUDA error: out of memory", "cudaMalloc failed: out of memory"), BY_CODE[44]),
    (
        _has("No space left on device", "[Errno 28]", "Disk quota exceeded"),
        Words(
            _E,
            Category.DISK_FULL,
            "the disk is full",
            "free some space (`halops plan` says how much), then `halops resume`",
        ),
    ),
    (
        _has(
            "driver version is insufficient",
            "Driver/library version mismatch",
            "no CUDA-capable device",
            "NVIDIA driver on your system is too old",
            "CUDA driver initialization failed",
        ),
        Words(
            _E,
            Category.DRIVER,
            "CUDA and the GPU's driver don't fit together",
            "update the driver, or reboot after an update; `halops doctor` shows both versions",
        ),
    ),
    (
        _has("no kernel image is available"),
        Words(
            _E,
            Category.DRIVER,
            "this build of torch or llama.cpp has no code for this GPU",
            "install a build for the GPU's generation",
        ),
    ),
    (
        _has("ModuleNotFoundError", "ImportError: libcu"),
        Words(
            _E,
            Category.MISSING_DEPENDENCY,
            "a Python package is missing",
            "`halops doctor` prints the pip command for this stage",
        ),
    ),
    (
        _has("Address already in use", "couldn't bind HTTP server socket"),
        Words(
            _E,
            Category.PORT_IN_USE,
            "the port is taken by another program",
            "choose another with --port, or stop the other program",
        ),
    ),
    (
        _has("MemoryError", "std::bad_alloc", "Cannot allocate memory", "DefaultCPUAllocator: can't allocate memory"),
        Words(
            _E,
            Category.HOST_MEMORY,
            "the machine's memory ran out",
            "close other programs, or lower the batch size; `halops plan` says what is needed",
        ),
    ),
    (_has("Illegal instruction"), BY_SIGNAL[signals.SIGILL]),
    (
        _has(
            "Connection refused",
            "Name or service not known",
            "Temporary failure in name resolution",
            "EndpointConnectionError",
        ),
        Words(
            _W,
            Category.UNREACHABLE,
            "a server could not be reached",
            "check the store's and the hub's address; `halops doctor` tries both",
        ),
    ),
)

OOM_KILLED = Words(
    _E,
    Category.HOST_MEMORY,
    "killed because it used more memory than it may",
    "give the stage more memory, or lower the batch size; `halops plan` says what is needed",
)
TRACEBACK = Words(_E, Category.BUG, "it ended in an unexpected error", "please report it with the log's last lines")
UNKNOWN = Words(
    _E, Category.UNKNOWN, "it ended with exit code {code}, which has no meaning of its own", "its log has the reason"
)
