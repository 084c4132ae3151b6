"""How a process ended -> what that means. One row for each way to end."""

from __future__ import annotations

import pytest

from halops import errors
from halops.diagnose import Category, Diagnosis, Level, diagnose
from halops.diagnosis import BY_CODE

C = Category
TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\nValueError: odd shape (3, 4)\n'
ENDINGS = [
    (42, "", C.CONFIG, Level.ERROR),
    (43, "", C.INTEGRITY, Level.ERROR),
    (44, "", C.GPU_MEMORY, Level.ERROR),
    (75, "", C.INTERRUPTED, Level.WARNING),
    (3, "", C.NOT_FOUND, Level.ERROR),
    (4, "", C.BUSY, Level.ERROR),
    (5, "", C.HOST, Level.ERROR),
    (7, "", C.VERIFICATION, Level.ERROR),
    (70, "", C.BUG, Level.ERROR),
    (2, "", C.USAGE, Level.ERROR),
    (130, "", C.INTERRUPTED, Level.WARNING),
    (137, "", C.KILLED, Level.WARNING),
    (-9, "", C.KILLED, Level.WARNING),
    (139, "", C.CRASH, Level.ERROR),
    (-11, "", C.CRASH, Level.ERROR),
    (134, "GGML_ASSERT(n > 0) failed", C.CRASH, Level.ERROR),
    (132, "", C.NATIVE_BUILD, Level.ERROR),
    (-4, "", C.NATIVE_BUILD, Level.ERROR),
    (135, "", C.DISK_FULL, Level.ERROR),
    (143, "", C.INTERRUPTED, Level.WARNING),
    (-15, "", C.INTERRUPTED, Level.WARNING),
    (129, "", C.INTERRUPTED, Level.WARNING),
    (159, "", C.CRASH, Level.ERROR),
    (1, TRACEBACK, C.BUG, Level.ERROR),
    (1, "", C.UNKNOWN, Level.ERROR),
    (99, "", C.UNKNOWN, Level.ERROR),
    (1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.", C.GPU_MEMORY, Level.ERROR),
    (1, TRACEBACK + "OSError: [Errno 28] No space left on device: 'a'", C.DISK_FULL, Level.ERROR),
    (1, "RuntimeError: The NVIDIA driver on your system is too old (found version 12020).", C.DRIVER, Level.ERROR),
    (1, "CUDA error: no kernel image is available for execution on the device", C.DRIVER, Level.ERROR),
    (1, TRACEBACK + "ModuleNotFoundError: No module named 'peft'", C.MISSING_DEPENDENCY, Level.ERROR),
    (1, "OSError: [Errno 98] Address already in use", C.PORT_IN_USE, Level.ERROR),
    (134, "terminate called after throwing an instance of 'std::bad_alloc'", C.HOST_MEMORY, Level.ERROR),
    (5, "convert: Illegal instruction (core dumped)", C.NATIVE_BUILD, Level.ERROR),
    (1, "httpx.ConnectError: [Errno 111] Connection refused", C.UNREACHABLE, Level.WARNING),
]


@pytest.mark.parametrize(("code", "log", "category", "level"), ENDINGS)
def test_each_ending(code: int, log: str, category: Category, level: Level) -> None:
    diagnosis = diagnose(code, log_tail=log)
    assert (diagnosis.category, diagnosis.level) == (category, level)
    assert diagnosis.summary
    assert diagnosis.resolution
    assert diagnosis.detail


def test_success() -> None:
    assert diagnose(0).category is Category.DONE


def test_memory_kill_is_told_from_other_kills() -> None:
    assert diagnose(137, oom_killed=True).category is Category.HOST_MEMORY
    assert diagnose(1, oom_killed=True).category is Category.HOST_MEMORY
    assert diagnose(137).category is Category.KILLED


def test_a_signal_given_apart_counts() -> None:
    assert diagnose(1, signal=4) == diagnose(132)
    assert diagnose(-6).detail == "signal SIGABRT"


def test_the_stages_own_code_wins_over_its_log() -> None:
    assert diagnose(42, log_tail="OSError: No space left on device").category is Category.CONFIG


def test_the_detail_is_the_telling_line() -> None:
    log = TRACEBACK + 'OSError: [Errno 28] No space left on device\n{"message": "cleaning up"}\nbye\n'
    assert diagnose(1, log_tail=log).detail == "OSError: [Errno 28] No space left on device"
    assert diagnose(1, log_tail=TRACEBACK + '{"message": "x"}\n').detail == "ValueError: odd shape (3, 4)"


def test_the_stage_is_named() -> None:
    assert diagnose(44, stage="train").summary == "train: the GPU's memory ran out"


def test_every_exit_code_of_the_error_tree_has_words() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HalopsError)]
    codes = {kind.exit_code for kind in kinds} - {1}
    assert codes
    assert codes <= set(BY_CODE)


def test_categories_are_a_contract() -> None:
    assert [category.value for category in Category] == [
        "done", "config", "integrity", "gpu-memory", "host-memory", "disk-full", "driver", "interrupted", "unreachable",
        "native-build", "crash", "killed", "missing-dependency", "port-in-use", "not-found", "busy", "host",
        "verification", "usage", "bug", "unknown", "unschedulable", "image", "setup", "credentials", "refused", "quota",
        "queued", "suspended", "evicted", "preempted", "node-lost", "node", "deadline",
    ]  # fmt: skip
    assert Diagnosis.model_config["frozen"]
