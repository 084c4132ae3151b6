"""The GPU's part of the pre-flight list, over answers of nvidia-smi.

smi/h100_busy.xml was recorded (shortened, its UUID changed); the others are of its shape.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from halops.checks import gpu, smi
from halops.checks.base import Check
from halops.memory import training_memory
from halops.profile import load_profile
from halops.sections import Dimensions, Gpu
from halops.units import GIB, MIB

FOLDER = Path(__file__).parent / "smi"
RTX8 = training_memory(load_profile("rtx8"), Dimensions()).needed
A100 = training_memory(load_profile("a100"), Dimensions()).needed
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n"
)


def seen(name: str) -> smi.Seen:
    return smi.read(0, (FOLDER / f"{name}.xml").read_text())


def decide(
    found: smi.Seen, needed: int = RTX8, *, count: int = 1, torch_cuda: str | None = "13.0", visible: str | None = None
) -> dict[str, Check]:
    checks = gpu.decide(found, Gpu(count=count, memory_gib=8), needed, torch_cuda=torch_cuda, visible=visible)
    return {check.name: check for check in checks}


def test_the_recorded_answer_is_read() -> None:
    found = seen("h100_busy")
    assert (found.driver, found.cuda, found.problem) == ("580.159.04", "13.0", "")
    card = found.cards[0]
    assert (card.name, card.total, card.free) == ("NVIDIA H100 80GB HBM3", 81559 * MIB, 77481 * MIB)
    assert card.holders == (smi.Holder(pid=421, name="python3", memory=3590 * MIB),)
    assert not card.mig


def test_an_idle_a100_with_an_old_driver() -> None:
    checks = decide(seen("a100_idle"), A100, torch_cuda="12.8")
    assert [check.status for check in checks.values()] == ["ok", "ok", "ok"]
    assert checks["GPU"].detail == "0: NVIDIA A100-SXM4-40GB, 40.0 GiB"
    assert checks["GPU memory"].detail == "39.4 GiB free on GPU 0, 13.2 GiB needed"
    old = decide(seen("a100_idle"), A100)["CUDA driver"]
    assert old.status == "fail"
    assert old.detail == "driver 535.183.06, CUDA 12.2, but torch was built for CUDA 13.0"
    assert "CUDA 13" in old.remedy
    assert "CUDA 12" in old.remedy


def test_a_held_8_gb_card_names_who_holds_it() -> None:
    check = decide(seen("rtx3070_held"))["GPU memory"]
    assert check.status == "fail"
    assert check.detail == (
        "2.5 GiB of 8.0 GiB free on GPU 0, 6.8 GiB needed; "
        "held by python (pid 48113) 4.8 GiB, Xorg (pid 1893) 0.3 GiB, gnome-shell (pid 2214) 0.1 GiB"
    )
    assert check.remedy == "end it (kill 48113), or wait until it is done"


def test_a_desktop_on_an_8_gb_card_leaves_enough() -> None:
    check = decide(seen("rtx4060_desktop"))["GPU memory"]
    assert check.status == "ok"
    assert "Xorg (pid 1893)" in check.detail


def test_a_card_that_is_too_small_is_not_blamed_on_its_holders() -> None:
    check = decide(seen("rtx3070_held"), A100)["GPU memory"]
    assert check.status == "fail"
    assert check.detail == "GPU 0 has 8.0 GiB, 13.2 GiB are needed"
    assert "max_seq_length" in check.remedy


def test_mig() -> None:
    card = seen("a100_mig").cards[0]
    assert card.mig
    assert [part.free for part in card.partitions] == [(40192 - 37) * MIB, (19968 - 2050) * MIB]
    assert card.holders == (smi.Holder(pid=7731, name="an unnamed process", memory=2048 * MIB),)
    check = decide(seen("a100_mig"))["GPU memory"]
    assert check.status == "ok"
    assert "MIG device 0" in check.detail
    check = decide(seen("a100_mig"), 60 * GIB)["GPU memory"]
    assert check.status == "fail"
    assert "39.2 GiB" in check.detail
    assert "MIG" in check.remedy


def test_mig_without_devices() -> None:
    found = seen("a100_mig")
    bare = found.model_copy(update={"cards": (found.cards[0].model_copy(update={"partitions": ()}),)})
    check = decide(bare)["GPU memory"]
    assert check.status == "fail"
    assert "without any device" in check.detail


def test_the_freest_of_several_cards_counts() -> None:
    check = decide(seen("two_l4_container"))["GPU memory"]
    assert check.status == "ok"
    assert "GPU 1" in check.detail
    both = decide(seen("two_l4_container"), count=2)["GPU memory"]
    assert both.status == "fail"


@pytest.mark.parametrize(
    ("visible", "status"),
    [(None, "ok"), ("1", "ok"), ("GPU-bbbb", "ok"), ("0", "fail"), ("GPU-aaaa0000", "fail"), ("0,1", "ok")],
)
def test_visible_devices(visible: str | None, status: str) -> None:
    assert decide(seen("two_l4_container"), visible=visible)["GPU memory"].status == status


@pytest.mark.parametrize("visible", ["", "7", "GPU-cccc", "-1"])
def test_no_visible_device(visible: str) -> None:
    check = decide(seen("two_l4_container"), visible=visible)["GPU"]
    assert check.status == "fail"
    assert "CUDA_VISIBLE_DEVICES" in check.remedy


def test_an_unseen_holder_is_said_to_be_unseen() -> None:
    check = decide(seen("two_l4_container"), visible="0")["GPU memory"]
    assert "can't be seen from here" in check.detail
    assert "containers" in check.remedy


@pytest.mark.parametrize(
    ("code", "output", "errors", "problem", "remedy"),
    [
        (6, "No devices were found\n", "", "No devices were found", "lspci"),
        (18, MISMATCH, "", "Driver/library version mismatch", "reboot"),
        (9, NO_DRIVER, "", "couldn't communicate", "modprobe nvidia"),
        (1, "", "Segmentation fault", "Segmentation fault", "driver"),
        (0, "", "", "exit code 0", "driver"),
        (0, "<?xml version='1.0'?><nvidia_smi_log><gpu>", "", "not readable XML", "driver"),
        (0, "<?xml version='1.0'?><nvidia_smi_log></nvidia_smi_log>", "", "no devices", "lspci"),
    ],
)
def test_what_goes_wrong(code: int, output: str, errors: str, problem: str, remedy: str) -> None:
    check = decide(smi.read(code, output, errors))["GPU"]
    assert check.status == "fail"
    assert problem in check.detail
    assert remedy in check.remedy


def test_a_profile_without_gpu_needs_none() -> None:
    (check,) = gpu.decide(smi.Seen(problem="x"), Gpu(count=0), 0, torch_cuda=None, visible=None)
    assert check.status == "skip"
    assert check.detail == "not needed by this profile"


def test_no_nvidia_smi() -> None:
    found = smi.probe("/no/such/nvidia-smi")
    assert found.absent
    check = decide(found)["GPU"]
    assert check.status == "fail"
    assert "--profile local" in check.remedy


def program(folder: Path, text: str) -> str:
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return os.fspath(path)


def test_the_program_is_asked_and_its_exit_code_counts(tmp_path: Path) -> None:
    assert smi.probe(program(tmp_path, f'[ "$*" = "-q -x" ] && cat {FOLDER}/a100_idle.xml')).cards
    assert smi.probe(program(tmp_path, "echo No devices were found; exit 6")).problem == "No devices were found"


def test_a_driver_that_hangs(tmp_path: Path) -> None:
    found = smi.probe(program(tmp_path, "exec sleep 30"), timeout=0.3)
    assert "gave no answer" in found.problem
    assert "xid" in decide(found)["GPU"].remedy


def test_without_a_cuda_torch() -> None:
    check = decide(seen("a100_idle"), torch_cuda=None)["CUDA driver"]
    assert check.status == "warn"
    assert "halops[train]" in check.remedy


@pytest.mark.slow
def test_torchs_cuda_version_is_read_without_importing_it() -> None:
    import torch

    assert gpu.torch_cuda_version() == torch.version.cuda


def test_need_by_the_profiles_size_where_dimensions_are_unknown() -> None:
    assert decide(seen("rtx4060_desktop"), 0)["GPU memory"].status == "fail"  # the desktop leaves 7.36 of 7.44 GiB
    assert decide(seen("a100_idle"), 0)["GPU memory"].status == "ok"
