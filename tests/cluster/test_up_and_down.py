"""A cluster that was killed while it came up leaves nothing behind, and two clusters don't meet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import SETTINGS
from tests.cluster.handle import ROOT, Cluster
from tests.cluster.pods import eventually
from tools.cluster import cgroups, processes
from tools.cluster.down import remains
from tools.cluster.state import State
from tools.cluster.traces import SYSCTLS
from tools.cluster.up import is_up

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cluster")]


def test_down_leaves_nothing_of_a_cluster_that_runs(cluster: Cluster, tmp_path: Path) -> None:
    """Beside another one, which goes on."""
    settings, state = machine(), State(tmp_path)
    assert tool(state, "up").wait() == 0
    assert is_up(state)
    assert cgroups.processes(state)  # DNS
    assert tool(state, "down").wait() == 0
    expect_nothing_left(state, settings)
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


@pytest.mark.parametrize("moment", ["etcd", "containerd2", "kubelet2"])
def test_down_clears_a_half_up_cluster_away(cluster: Cluster, tmp_path: Path, moment: str) -> None:
    """Killed when a component has just been started; the session's cluster isn't touched."""
    settings = machine()
    state = State(tmp_path)
    starting = tool(state, "up")
    eventually(lambda: (state.run / f"{moment}.pid").exists(), 60)
    starting.send_signal(signal.SIGKILL)
    starting.wait()
    assert any(what.startswith("process") for what in remains(state))
    assert not is_up(state)
    assert tool(state, "down").wait() == 0
    expect_nothing_left(state, settings)
    assert is_up(State(cluster.kubeconfig.parents[1]))
    assert cluster.kubectl("get", "--raw", "/readyz") == "ok"


def test_up_starts_a_cluster_afresh_of_which_nothing_lives(cluster: Cluster, tmp_path: Path) -> None:
    """As after a kill of everything at once: what its pods held would be held for ever."""
    state = State(tmp_path)
    assert tool(state, "up").wait() == 0
    first = (state.pki / "ca.crt").read_bytes()
    processes.kill(processes.inhabitants(state) | cgroups.processes(state))
    assert is_up(state)
    assert tool(state, "up").wait() == 0
    assert (state.pki / "ca.crt").read_bytes() != first
    assert tool(state, "down").wait() == 0


def expect_nothing_left(state: State, settings: dict[str, str]) -> None:
    assert remains(state) == []
    assert {entry.name for entry in state.folder.iterdir()} == {"lock", "log"}
    assert not list(Path("/run/netns").glob(f"{state.name}*"))
    assert machine() == settings


def tool(state: State, command: str) -> subprocess.Popen[bytes]:
    environment = os.environ | SETTINGS | {"HALOPS_TEST_CLUSTER": str(state.folder)}
    return subprocess.Popen([sys.executable, "-m", "tools.cluster", command], cwd=ROOT, env=environment)


def machine() -> dict[str, str]:
    """What a kubelet would change for the whole machine."""
    return {name: (Path("/proc/sys") / name).read_text() for name in SYSCTLS}
