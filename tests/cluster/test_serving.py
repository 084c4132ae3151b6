"""The inference chart on a real cluster: admitted, answering, drained, refused, cached, upgraded."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.handle import ROOT, Cluster
from tests.cluster.serving import CLIENT, KEY, NODES, Serving, local_claim, put_object, question, serving, until
from tests.helm import CHART

pytestmark = pytest.mark.slow

FIRST = ROOT / "tests" / "cluster" / "halops-inference-0.1.0.tgz"  # the chart's first form


@pytest.fixture(scope="module")
def place(cluster: Cluster, gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A namespace with a release `ops`, its cache on a claim, and two clients' pods."""
    folder = tmp_path_factory.mktemp("serving")
    with serving(cluster, folder, gguf) as made:
        local_claim(made, "models")
        callers = {"callers": [{"podSelector": {"matchLabels": CLIENT}}, NODES]}
        print(made.install("ops", cache={"claim": "models"}, networkPolicy=callers))
        made.client("friend", **CLIENT)
        made.client("stranger")
        yield made


def test_helm_test_is_content(place: Serving) -> None:
    said = place.helm("test", "ops", "--logs")
    assert "without a key: 401" in said
    assert "with the key: 200" in said


def test_callers_by_label_and_key(place: Serving) -> None:
    host = f"ops.{place.namespace}.svc"
    answer = place.ask("friend", host, question())
    assert answer.startswith("HTTP/1.1 200 ")
    assert json.loads(answer.partition("\n\n")[2])["usage"]["completion_tokens"] > 0
    assert place.ask("friend", host, question(), key="wrong").startswith("HTTP/1.1 401 ")
    assert place.ask("stranger", host, question(), seconds=5) == ""


def test_no_user_text_is_in_the_log(place: Serving) -> None:
    body = question()
    body["messages"][0]["content"] = "a-word-of-mine"
    assert place.ask("friend", "ops", body).startswith("HTTP/1.1 200 ")
    assert "a-word-of-mine" not in place.kubectl("logs", place.pod("ops"), "-c", "server")


def test_what_rules_and_dashboard_ask_for_is_measured(place: Serving) -> None:
    said = place.kubectl("exec", place.pod("ops"), "-c", "server", "--", "bash", "-c", in_pod("/metrics"))
    assert said.startswith("200")
    measured = set(re.findall(r"^(llamacpp:\w+) ", said, re.MULTILINE))
    files = [
        CHART / "files" / "dashboard.json",
        *(CHART / "templates").glob("*.yaml"),
        CHART / "templates" / "_metrics.tpl",
    ]
    asked = {name for path in files for name in re.findall(r"llamacpp:\w+", path.read_text())}
    assert len(asked) > 5
    assert asked - measured == set()


def in_pod(path: str) -> str:
    """A bash command that prints the status of a GET, then the body."""
    return f'. /opt/halops/http.sh; request "$(key)" GET {path}; echo "$status"; echo "$body"'


def test_a_restarted_pod_fetches_nothing(place: Serving) -> None:
    """Not even if the store has lost the model."""
    before = place.pod("ops")
    assert place.cluster.store
    path = place.cluster.store.path(f"{place.namespace}/model.gguf")
    kept = path.rename(path.with_suffix(".kept"))
    try:
        place.kubectl("delete", "pod", before)
        after = place.ready("ops")
        assert after != before
        assert "\n0 bytes fetched for s3://" in f"\n{place.kubectl('logs', after, '-c', 'fetch')}"
    finally:
        kept.rename(path)


def test_a_drain_lets_an_answer_end(place: Serving) -> None:
    """The pod is deleted in the middle of a stream of 3,000 tokens."""
    words = place.ask_words("friend", "ops", question(3000, stream=True, ignore_eos=True))
    kubectl = [*place.cluster.prefix, place.cluster.kubectl_path, "-n", place.namespace]
    client = subprocess.Popen([*kubectl, *words], env=place.cluster.environment, stdout=subprocess.PIPE, text=True)
    assert client.stdout
    lines: list[str] = []
    while sum(line.startswith("data: ") for line in lines) < 20:
        lines.append(client.stdout.readline())
        assert lines[-1] or client.poll() is None, lines
    pod = place.pod("ops")
    place.kubectl("delete", "pod", pod, "--wait=false")
    lines += client.stdout.readlines()
    assert client.wait(30) == 0
    assert "data: [DONE]\n" in [line.replace("\r", "") for line in lines]
    assert sum(line.startswith("data: ") for line in lines) > 2900
    place.kubectl("wait", "--for=delete", f"pod/{pod}", "--timeout=60s")  # and not the whole grace period
    place.ready("ops")


def test_the_service_is_switched_to_another_release(place: Serving) -> None:
    """Blue and green: by value, and back."""
    place.install("next", cache={"claim": "models"})
    for track, release in (("next", "next"), ("", "ops")):
        place.install("ops", cache={"claim": "models"}, service={"track": track})
        wanted = {pod["status"]["podIP"] for pod in place.pods(release)}
        until(lambda wanted=wanted: endpoints(place, "ops") == wanted)
        assert place.ask("friend", "ops", question()).startswith("HTTP/1.1 200 ")
    place.helm("uninstall", "next")


def endpoints(place: Serving, service: str) -> set[str]:
    text = place.kubectl("get", "endpointslices", "-l", f"kubernetes.io/service-name={service}", "-o", "json")
    found = [item for piece in json.loads(text)["items"] for item in piece["endpoints"] or []]
    return {address for item in found if item["conditions"]["ready"] for address in item["addresses"]}


def test_other_bytes_never_serve(place: Serving) -> None:
    wrong = "0" * 64
    place.install("wrong", wait=False, model={"sha256": wrong})
    try:
        state = until(lambda: ended(place, "wrong"))
        assert state["exitCode"] == 43
        assert f"don't match the digest {wrong}" in state["message"]
        assert place.pods("wrong")[0]["status"]["phase"] == "Pending"
    finally:
        place.helm("uninstall", "wrong")


def ended(place: Serving, release: str) -> Any:
    """How the init container ended, once it has."""
    for pod in place.pods(release):
        for status in pod["status"].get("initContainerStatuses", []):
            for state in (status["state"], status["lastState"]):
                if "terminated" in state:
                    return state["terminated"]
    return None


def test_what_a_client_may_send_and_the_server_answers_on(place: Serving) -> None:
    address = place.kubectl("get", "service", "ops", "-o", "jsonpath={.spec.clusterIP}")
    pod, limit = place.pod("ops"), 900
    words = [*place.cluster.prefix, sys.executable, "-m", "tests.cluster.abuse", address, KEY]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    ends = {name: item["status"] for name, item in found.items()}
    # The server hangs up on what it won't read; its answer doesn't always make it before that.
    ends |= {name: ends[name] or told for name, told in (("100 MB, wrong key", 401), ("100 MB", 413))}
    assert ends == {
        "at first": 200, "wrong key": 401, "too long": 400, "malformed": 500, "no messages": 400,
        "100 MB, wrong key": 401, "100 MB": 413, "4 MB": 400, "half-open": 200, "at last": 200,
    }, found  # fmt: skip
    assert found["half-open"]["seconds"] < 30  # they would be given up after 60
    assert "exceed_context_size_error" in found["too long"]["text"]
    assert {item["afterwards"] for item in found.values() if "afterwards" in item} == {200}
    assert place.pod("ops") == pod
    restarts = place.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
    assert restarts == "0"


def test_half_a_file_under_its_own_digest_is_said_to_be_damaged(place: Serving, gguf: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.gguf"
    half.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    put_object(place.cluster, half, f"{place.namespace}/half.gguf")
    url = place.model["url"].replace("model.gguf", "half.gguf")
    digest = hashlib.sha256(half.read_bytes()).hexdigest()
    place.install("half", wait=False, model={"url": url, "sha256": digest, "bytes": half.stat().st_size})
    try:
        pod = until(lambda: place.pods("half") and place.pod("half"))
        until(lambda: "data is not within the file bounds" in place.kubectl("logs", pod, "-c", "server", check=False))
        assert place.ask("friend", f"ops.{place.namespace}.svc", question()).startswith("HTTP/1.1 200 ")
    finally:
        place.helm("uninstall", "half")


def test_told_to_end_while_the_model_loads(place: Serving) -> None:
    place.install("early", wait=False, cache={"claim": "models"})
    try:
        pod = until(lambda: place.pods("early") and place.pod("early"))
        until(lambda: "running" in place.kubectl(
            "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].state}"))  # fmt: skip
        place.kubectl("delete", "pod", pod, "--timeout=60s")  # it has two minutes for answers, and nobody asks
        assert place.ready("early") != pod
        assert place.ask("friend", "early", question()).startswith("HTTP/1.1 200 ")
    finally:
        place.helm("uninstall", "early")


def test_missing_layers_are_said(place: Serving) -> None:
    place.install("layers", wait=False, gpu={"expectedLayers": 3})
    try:
        said = "0 layers are on the GPU, 3 are expected"
        until(lambda: said in place.kubectl("get", "events", "-o", "jsonpath={.items[*].message}"))
        assert not place.pods("layers")[0]["status"]["containerStatuses"][0]["ready"]
    finally:
        place.helm("uninstall", "layers")


def test_a_lora_on_a_cached_base(place: Serving, model: str, tmp_path: Path) -> None:
    """The fast path: the base is in the cache, and only the adapter's file is fetched."""
    lora = adapter_gguf(Path(model.removeprefix("file://")), tmp_path)
    put_object(place.cluster, lora, f"{place.namespace}/lora.gguf")
    assert place.cluster.store
    url = f"s3://{place.cluster.store.bucket}/{place.namespace}/lora.gguf"
    digest = hashlib.sha256(lora.read_bytes()).hexdigest()
    place.install("fast", cache={"claim": "models"}, adapter={"url": url, "sha256": digest})
    try:
        pod = place.pod("fast")
        fetched = place.kubectl("logs", pod, "-c", "fetch").splitlines()
        assert [line for line in fetched if "bytes fetched" in line] == [
            f"0 bytes fetched for {place.model['url']}",
            f"{lora.stat().st_size:,} bytes fetched for {url}",
        ]
        said = place.kubectl("exec", pod, "-c", "server", "--", "bash", "-c", in_pod("/lora-adapters"))
        assert json.loads(said.partition("\n")[2])[0]["path"] == f"/models/{digest}.gguf"
    finally:
        place.helm("uninstall", "fast")


def adapter_gguf(base: Path, folder: Path) -> Path:
    """A LoRA of the tiny model as a GGUF."""
    from halops.llamacpp.convert import Converter
    from halops.llamacpp.toolchain import find
    from tests.tiny_models import tiny_adapter

    Converter(find(), folder / "log").convert_lora(tiny_adapter(folder / "adapter"), base, folder / "lora.gguf")
    return folder / "lora.gguf"


def test_the_first_form_is_upgraded(place: Serving) -> None:
    """The chart as it was first packaged, then the one of this tree."""
    place.install("old", chart=FIRST, cache={"claim": "models"})
    place.install("old", cache={"claim": "models"})
    history = json.loads(place.helm("history", "old", "-o", "json"))
    assert [item["status"] for item in history] == ["superseded", "deployed"]
    assert place.ask("friend", "old", question()).startswith("HTTP/1.1 200 ")
    place.helm("rollback", "old", "1", "--wait", "--timeout", "180s")
    place.helm("uninstall", "old")


def test_uninstalling_leaves_nothing(place: Serving) -> None:
    """Last in this file."""
    place.helm("uninstall", "ops", "--wait", "--timeout", "120s")
    kinds = "deployments,replicasets,services,networkpolicies,poddisruptionbudgets,serviceaccounts"
    chosen = ["-l", "app.kubernetes.io/name=halops-inference", "-o", "name"]
    until(lambda: place.kubectl("get", kinds, *chosen) == "")
