"""The fixture `cluster`: a real Kubernetes, started by the first test that asks for it.

- HALOPS_TEST_KUBECONFIG uses another cluster instead of the project's own (see handle.other_cluster for more).
- Without root tests skip; HALOPS_REQUIRE_CLUSTER=1 makes that a failure.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn, TextIO

import pytest

from tests.cluster.handle import ROOT, TESTS_LABEL, Cluster, from_description, other_cluster
from tests.cluster.place import Place, make_place
from tests.cluster.tiny_model import make as make_model
from tools.cluster.state import State
from tools.cluster.up import is_up

WHOLE = ("--set=convert.adapter=true", "--set=verify.compare_base=true")  # what the tiny profile leaves out
SETTINGS = {name: value for name, value in os.environ.items() if name.startswith("HALOPS_")}  # tests begin without


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster that runs. Our own is taken down by the last who uses it, if a fixture started it."""
    if kubeconfig := SETTINGS.get("HALOPS_TEST_KUBECONFIG"):
        yield other_cluster(kubeconfig, SETTINGS)
        return
    if os.geteuid() != 0:
        _cannot("the test cluster needs root (or HALOPS_TEST_KUBECONFIG for another one)")
    with _used(State.default()) as state:
        yield from_description(state.read())


@pytest.fixture
def own_cluster(cluster: Cluster) -> Cluster:
    """The project's own, for tests that kill its processes or know its nodes; they skip on any other."""
    if not cluster.own:
        pytest.skip("about the project's own cluster, and HALOPS_TEST_KUBECONFIG names another")
    return cluster


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A fresh namespace under Pod Security `restricted`, deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    cluster.kubectl("create", "namespace", name)
    cluster.kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted", TESTS_LABEL)
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model's URI."""
    return make_model(tmp_path_factory.mktemp("tiny") / "model").as_uri()


@pytest.fixture(scope="session")
def gguf(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a GGUF file."""
    from halops.llamacpp.convert import Converter, base_gguf
    from halops.llamacpp.toolchain import find

    converter = Converter(find(), tmp_path_factory.mktemp("tiny-gguf") / "log")
    return base_gguf(Path(model.removeprefix("file://")), "tests-tiny", converter)


@pytest.fixture
def place(cluster: Cluster, model: str, tmp_path: Path) -> Iterator[Place]:
    """A namespace and a folder to submit the tiny profile from; gone afterwards."""
    made = make_place(cluster, tmp_path, model)
    yield made
    cluster.kubectl("delete", "namespace", made.namespace, "--wait=false")


@pytest.fixture(scope="session")
def finished(cluster: Cluster, model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, str]]:
    """A place with a run that has come to its end, for tests that look at one."""
    made = make_place(cluster, tmp_path_factory.mktemp("finished"), model, WHOLE)
    run = made.submit()
    made.succeeded(run)
    yield made, run
    cluster.kubectl("delete", "namespace", made.namespace, "--wait=false")


def _cannot(reason: str) -> NoReturn:
    if SETTINGS.get("HALOPS_REQUIRE_CLUSTER") == "1":
        pytest.fail(f"{reason}, and HALOPS_REQUIRE_CLUSTER=1 asks for one", pytrace=False)
    pytest.skip(reason)  # the sentence of whoever found it missing


@contextlib.contextmanager
def _used(state: State) -> Iterator[State]:
    """Start a cluster unless it is up; several test processes may share it.

    Each holds a lock on one file. Whoever can have it alone at the end was the last; whoever can at the beginning
    clears away what tests that were killed have left: runs at work there would hold the GPUs.
    """
    state.folder.mkdir(parents=True, exist_ok=True)
    ours = state.run / "started-by-tests"
    with (state.folder / "users").open("w") as users:
        alone = _alone(users)
        if alone and ours.exists():
            _tool("down")
        fcntl.flock(users, fcntl.LOCK_SH)
        was_up = is_up(state)
        _tool("up")
        if alone and was_up:
            from_description(state.read()).kubectl("delete", "namespaces", "-l", TESTS_LABEL)
        if not was_up:
            ours.touch()
        try:
            yield state
        finally:
            if _alone(users) and ours.exists():
                _tool("down")


def _alone(users: TextIO) -> bool:
    """Whether nobody else holds the lock; then it is ours alone."""
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def _tool(*arguments: str) -> None:
    environment = os.environ | {name: value for name, value in SETTINGS.items() if name.startswith("HALOPS_TEST_")}
    words = [sys.executable, "-m", "tools.cluster", *arguments]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"tools/cluster {' '.join(arguments)}:\n{done.stderr}", pytrace=False)
