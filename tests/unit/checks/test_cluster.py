"""The cluster's checks, on clusters made of plain API objects: one flaw at a time."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from halops.backends.kube.api import KubeApi
from halops.backends.kube.connection import Connection
from halops.backends.kube.view import KubeView
from halops.checks.base import Check
from halops.checks.cluster import RIGHTS, SEVERAL_NODES, examine, images, pod_needs, reachable_store
from halops.checks.nodes import fit, pod_requests, read_nodes, tolerates
from halops.errors import HalopsError, StoreUnavailable, TransientError
from halops.manifests.needs import Needs
from halops.profile import load_profile
from halops.sections import Cluster, Gpu, Toleration
from halops.site import Secrets, Site
from halops.store.local import LocalStore
from tests.unit.test_k8s import FOLDER, granted

Object = dict[str, Any]
GIB = 2**30
DIGEST = "registry.example/x@sha256:" + "a" * 64
SITE = Site(
    store="s3://ops/runs",
    images=dict.fromkeys(("train", "merge", "convert"), DIGEST),
    secrets=Secrets(s3="s3", hub="hub"),
)
STAGES = ("base", "data", "train", "merge", "convert", "verify", "coordinator")


def node(
    name: str, *, gpu: int = 0, mib: int = 0, cpu: str = "16", memory: str = "128Gi", disk: str = "400Gi", **spec: Any
) -> Object:
    labels = {"kubernetes.io/hostname": name} | ({"nvidia.com/gpu.memory": str(mib)} if mib else {})
    labels |= {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-40GB"} if gpu else {}
    has = {"cpu": cpu, "memory": memory, "ephemeral-storage": disk} | ({"nvidia.com/gpu": str(gpu)} if gpu else {})
    return {
        "metadata": {"name": name, "labels": labels},
        "spec": spec,
        "status": {"allocatable": has, "conditions": [{"type": "Ready", "status": "True"}]},
    }


def pod(where: str, name: str = "other", namespace: str = "vision", phase: str = "Running", **requests: str) -> Object:
    asked = {key.replace("_", "-").replace("gpu", "nvidia.com/gpu"): value for key, value in requests.items()}
    return {
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": where, "containers": [{"name": "c", "resources": {"requests": asked}}]},
        "status": {"phase": phase},
    }


GPU_TAINT = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}


class View:
    """A cluster where all is well."""

    def __init__(self) -> None:
        self.said_version = "v1.36.3"
        self.forbidden: set[tuple[str, str]] = set()
        self.space: Object | None = {
            "metadata": {"name": "halops", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        }
        self.found_nodes: list[Object] | None = [node("cpu-1"), node("gpu-1", gpu=1, mib=40960, taints=[GPU_TAINT])]
        self.pods: list[Object] | None = []
        self.accounts: set[str] | None = {f"halops-{stage}" for stage in STAGES}
        self.keys: dict[str, set[str]] = {"s3": {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}, "hub": {"HF_TOKEN"}}
        self.values = {"AWS_ACCESS_KEY_ID": "theirs", "AWS_SECRET_ACCESS_KEY": "of theirs"}
        self.quotas: list[Object] | None = []
        self.policies: list[Object] | None = []

    def version(self) -> str:
        return self.said_version

    def namespace(self) -> Object | None:
        return self.space

    def nodes(self) -> list[Object] | None:
        return self.found_nodes

    def pods_on_nodes(self) -> list[Object] | None:
        return self.pods

    def service_accounts(self) -> set[str] | None:
        return self.accounts

    def secret_keys(self, name: str) -> set[str] | None:
        return self.keys.get(name)

    def try_secret(self, name: str, use: Callable[[dict[str, str]], None]) -> None:
        use(self.values)

    def quota(self) -> list[Object] | None:
        return self.quotas

    def network_policies(self) -> list[Object] | None:
        return self.policies

    def can_i(self, verb: str, resource: str) -> bool:
        return (verb, resource) not in self.forbidden


def checked(view: View, *overrides: str, site: Site = SITE, profile: str = "a100") -> dict[str, Check]:
    return {check.name: check for check in examine(view, load_profile(profile, overrides), site)}


class Locked(LocalStore):
    """A store that one access key opens."""

    def __init__(self, folder: Path, key: str) -> None:
        super().__init__(folder)
        self.key = key

    def check(self, keys: Mapping[str, str] | None = None) -> None:
        if (keys or {}).get("AWS_ACCESS_KEY_ID") != self.key:
            raise StoreUnavailable("the access key isn't known")


def test_the_pods_keys_are_tried(tmp_path: Path) -> None:
    profile, view = load_profile("a100"), View()

    def found(key: str) -> Check:
        checks = examine(view, profile, SITE, Locked(tmp_path, key))
        return next(check for check in checks if check.name == "S3 Secret")

    assert found("theirs").status == "ok"
    assert "open the store" in found("theirs").detail
    assert found("another's").status == "fail"
    assert "the access key isn't known" in found("another's").detail
    assert "of theirs" not in str(found("another's"))
    view.values["AWS_ACCESS_KEY_ID"] = "theirs\n"
    assert "AWS_ACCESS_KEY_ID with white space around it" in found("theirs").detail


def test_a_cluster_where_all_is_well() -> None:
    found = checked(View())
    assert {check.status for check in found.values()} == {"ok"}
    assert list(found) == [
        "cluster", "namespace", "rights", "accounts", "network policies", "S3 Secret", "hub Secret", "quota",
        "GPU node", "GPU free", "nodes",
    ]  # fmt: skip
    assert found["GPU node"].detail == "gpu-1 (1 x NVIDIA-A100-SXM4-40GB, 40.0 GiB)"


@pytest.mark.parametrize(
    ("version", "status"),
    [("v1.31.0", "ok"), ("v1.30.9", "fail"), ("v1.33.4-gke.1012000", "ok"), ("v2.0.0", "ok"), ("odd", "warn")],
)
def test_versions(version: str, status: str) -> None:
    view = View()
    view.said_version = version
    assert checked(view)["cluster"].status == status


def test_a_cluster_that_can_not_be_reached() -> None:
    class Gone(View):
        def version(self) -> str:
            raise TransientError("the cluster can't be reached", where="https://10.0.0.1", remedy="check KUBECONFIG")

    found = checked(Gone())
    assert list(found) == ["cluster"]
    assert found["cluster"].status == "fail"
    assert "10.0.0.1" in found["cluster"].detail


def test_a_cluster_that_goes_away_meanwhile() -> None:
    class Going(View):
        def nodes(self) -> list[Object] | None:
            raise TransientError("the cluster can't be reached")

    assert checked(Going())["cluster"].status == "fail"


FLAWS: list[tuple[dict[str, Any], str, str, str, str]] = [
    ({"space": None}, "namespace", "fail", "no namespace halops", "kubectl apply -k"),
    ({"space": None, "forbidden": {("get", "namespaces")}}, "namespace", "skip", "may not", ""),
    ({"space": {"metadata": {"labels": {}}}}, "namespace", "warn", "no Pod Security standard", "restricted"),
    ({"space": {"metadata": {"deletionTimestamp": "x"}}}, "namespace", "fail", "being deleted", "wait"),
    ({"forbidden": {("create", "jobs"), ("get", "pods/log")}}, "rights", "fail", "create jobs, get pods/log",
     "halops-submitter"),
    ({"accounts": {"default", "halops-base"}}, "accounts", "fail", "halops-data, halops-train", "kubectl apply -k"),
    ({"accounts": None}, "accounts", "skip", "may not", ""),
    ({"keys": {"hub": {"HF_TOKEN"}}}, "S3 Secret", "fail", "no Secret s3", "--from-env-file"),
    ({"keys": {"s3": {"AWS_ACCESS_KEY_ID"}}}, "S3 Secret", "fail", "no AWS_SECRET_ACCESS_KEY", "edit secret s3"),
    ({"keys": {}}, "hub Secret", "fail", "no Secret hub", "HF_TOKEN"),
    ({"keys": {}, "forbidden": {("get", "secrets")}}, "S3 Secret", "skip", "may not read", ""),
    ({"found_nodes": None}, "nodes", "skip", "may not list nodes", ""),
    ({"found_nodes": []}, "GPU node", "fail", "no nodes", "autoscaler"),
    ({"found_nodes": [node("cpu-1")]}, "GPU node", "fail", "no node has a GPU", "add a node"),
    ({"found_nodes": [node("cpu-1"), node("gpu-1", gpu=1, mib=8192)]}, "GPU node", "fail",
     "gpu-1 has a GPU of 8.0 GiB, 40.0 GiB asked", "smaller cards"),
    ({"found_nodes": [node("cpu-1"), node("gpu-1", gpu=1)]}, "GPU node", "fail",
     "lacks the label nvidia.com/gpu.memory", "GPU feature discovery"),
    ({"found_nodes": [node("gpu-1", gpu=1, mib=40960, taints=[{"key": "team", "value": "v", "effect": "NoSchedule"}])]},
     "GPU node", "fail", "taint team=v:NoSchedule", "cluster.tolerations"),
    ({"found_nodes": [node("gpu-1", gpu=1, mib=40960, unschedulable=True)]}, "GPU node", "fail", "cordoned",
     "add a node"),
    ({"found_nodes": [node("gpu-1", gpu=1, mib=40960, memory="2Gi")]}, "GPU node", "fail", "of memory in all",
     "resources"),
    ({"pods": [pod("gpu-1", "llama-0", gpu="1")]}, "GPU free", "warn", "held by vision/llama-0 (1)", "waits"),
    ({"pods": None}, "GPU free", "skip", "may not", ""),
    ({"found_nodes": [node("cpu-1", disk="20Gi"), node("gpu-1", gpu=1, mib=40960, taints=[GPU_TAINT])]}, "nodes",
     "fail", "of scratch disk in all", "cluster.resources"),
    ({"pods": [pod("cpu-1", cpu="16")]}, "nodes", "warn", "no room at the moment for", "wait"),
]  # fmt: skip


@pytest.mark.parametrize(("flaw", "name", "status", "detail", "remedy"), FLAWS)
def test_each_flaw(flaw: dict[str, Any], name: str, status: str, detail: str, remedy: str) -> None:
    view = View()
    for attribute, value in flaw.items():
        assert hasattr(view, attribute)
        setattr(view, attribute, value)
    check = checked(view)[name]
    assert check.status == status
    assert detail in check.detail
    assert remedy in check.remedy
    assert bool(check.remedy) == (status in ("warn", "fail"))


def test_without_a_named_secret_workload_identity_is_meant() -> None:
    check = checked(View(), site=SITE.model_copy(update={"secrets": Secrets()}))["S3 Secret"]
    assert (check.status, "workload identity" in check.detail) == ("skip", True)


def quota_of(hard: dict[str, str], used: dict[str, str]) -> list[Object]:
    return [{"metadata": {"name": "halops"}, "spec": {"hard": hard}, "status": {"used": used}}]


@pytest.mark.parametrize(
    ("hard", "used", "status", "detail"),
    [
        (
            {"requests.nvidia.com/gpu": "2", "pods": "10"},
            {"requests.nvidia.com/gpu": "1"},
            "ok",
            "room for every stage",
        ),
        (
            {"requests.nvidia.com/gpu": "2"},
            {"requests.nvidia.com/gpu": "2"},
            "warn",
            "2 GPUs of 2 GPUs in use, train asks",
        ),
        ({"requests.nvidia.com/gpu": "0"}, {}, "fail", "0 GPUs of 0 GPUs in use, train asks 1 GPU"),
        ({"requests.memory": "1Gi"}, {}, "fail", "of memory"),
        ({"limits.memory": "1Gi"}, {}, "fail", "of memory"),
        ({"limits.cpu": "100"}, {}, "warn", "limits.cpu"),
    ],
)
def test_quotas(hard: dict[str, str], used: dict[str, str], status: str, detail: str) -> None:
    view = View()
    view.quotas = quota_of(hard, used)
    check = checked(view)["quota"]
    assert check.status == status
    assert detail in check.detail


def test_a_profile_without_a_gpu_or_without_dimensions() -> None:
    assert checked(View(), "cluster.gpu.count=0")["GPU node"].status == "skip"
    assert checked(View(), "model.dimensions=null")["nodes"].status == "skip"


def test_two_nodes_need_two_free_gpus_and_more_rights() -> None:
    view = View()
    view.forbidden = {("create", "services")}
    found = checked(view, "cluster.nodes=2")
    assert found["GPU free"].status == "warn"
    assert "create services" in found["rights"].detail
    assert checked(view)["rights"].status == "ok"


def test_images_and_stores() -> None:
    assert images(SITE.images).status == "ok"
    assert images({"train": DIGEST, "merge": "registry.example/x:1"}).detail == "convert isn't set; merge has no digest"
    assert reachable_store("s3://ops/runs", None).status == "ok"
    assert reachable_store("s3://ops/runs", "https://s3.example:9000").status == "ok"
    assert reachable_store("file:///home/ann/.halops", None).status == "fail"
    assert reachable_store("s3://ops/runs", "http://127.0.0.1:7070").status == "fail"


def test_rights_are_those_of_the_shipped_role() -> None:
    role = next(yaml.safe_load_all((FOLDER / "base" / "submitter.yaml").read_text()))
    held = {(verb, resource) for _, resource, verb in granted(role)}
    assert set(RIGHTS + SEVERAL_NODES) <= held


NEED = Needs(cpu="2", memory="8Gi", ephemeral_storage="10Gi", gpus=1)


def test_fit_names_who_could_and_who_can_now() -> None:
    nodes = [node("a", gpu=1, mib=40960), node("b", gpu=2, mib=81920), node("c", gpu=1, mib=8192), node("d")]
    pods = [pod("a", gpu="1"), pod("b", gpu="1"), pod("b", name="over", phase="Succeeded", gpu="1")]
    small = Needs(cpu="1", memory="1Gi", ephemeral_storage="1Gi")
    rows = fit({"train": NEED, "merge": small}, Cluster(gpu=Gpu(memory_gib=40)), read_nodes(nodes, pods))
    assert [(row.stage, row.holding, row.free) for row in rows] == [
        ("train", ("a", "b"), ("b",)),
        ("merge", ("a", "b", "c", "d"), ("a", "b", "c", "d")),
    ]
    assert rows[0].memory_bytes == 8 * GIB
    unseen = fit({"train": NEED}, Cluster(gpu=Gpu(memory_gib=40)), read_nodes(nodes, None), pods_known=False)
    assert unseen[0].free is None
    none = fit({"train": NEED}, Cluster(gpu=Gpu(memory_gib=80)), read_nodes(nodes[:1], None))
    assert none[0].reason == "a has a GPU of 40.0 GiB, 80.0 GiB asked"


def test_selectors_and_sick_nodes() -> None:
    cluster = Cluster(gpu=Gpu(memory_gib=0), node_selector={"pool": "ml"})
    assert fit({"train": NEED}, cluster, read_nodes([node("a", gpu=1)], []))[0].reason == "a lacks the label pool=ml"
    sick = copy.deepcopy(node("a", gpu=1))
    sick["status"]["conditions"][0]["status"] = "Unknown"
    assert fit({"train": NEED}, Cluster(gpu=Gpu(memory_gib=0)), read_nodes([sick], []))[0].reason == "a isn't ready"


def test_a_stage_needs_room_beside_the_coordinator() -> None:
    """On two nodes of which one is for GPUs alone: the coordinator and every stage without one share the other."""
    tainted = node("b", gpu=1, mib=40960, cpu="2", taints=[{"key": "nvidia.com/gpu", "effect": "NoSchedule"}])
    need = Needs(cpu="2", memory="1Gi", ephemeral_storage="1Gi")
    (row,) = fit({"train": need}, Cluster(), read_nodes([node("a", cpu="2"), tainted], []))
    assert not row.holding
    assert (
        row.reason == "a has 2 CPU cores in all, 2 CPU cores asked beside the coordinator, which asks for 0.1 CPU cores"
    )
    for nodes in ([node("a", cpu="2.5"), tainted], [node("a", cpu="2"), node("c", cpu="1")]):
        assert fit({"train": need}, Cluster(), read_nodes(nodes, []))[0].holding == ("a",)
    (row,) = fit({"train": need.model_copy(update={"gpus": 1})}, Cluster(gpu=Gpu(memory_gib=40)),
                 read_nodes([node("a", cpu="2"), tainted], []))  # fmt: skip
    assert row.holding == ("b",)


def test_a_nodes_gpu_memory_is_judged_as_the_affinity_judges_it() -> None:
    """Both must agree, or doctor promises what the scheduler refuses."""
    from halops.manifests.pods import gpu_affinity

    terms = gpu_affinity(40)["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    least = int(terms[0]["matchExpressions"][0]["values"][0])
    for mib, fits in ((least, False), (least + 1, True)):
        row = fit({"train": NEED}, Cluster(gpu=Gpu(memory_gib=40)), read_nodes([node("a", gpu=1, mib=mib)], []))[0]
        assert bool(row.holding) is fits


@pytest.mark.parametrize(
    ("toleration", "tolerated"),
    [
        (Toleration(key="team", operator="Exists"), True),
        (Toleration(key="team", operator="Equal", value="vision", effect="NoSchedule"), True),
        (Toleration(key="team", operator="Equal", value="ops"), False),
        (Toleration(key="team", operator="Exists", effect="NoExecute"), False),
        (Toleration(operator="Exists"), True),
        (Toleration(key="other"), False),
    ],
)
def test_tolerations(toleration: Toleration, tolerated: bool) -> None:
    assert tolerates(toleration, {"key": "team", "value": "vision", "effect": "NoSchedule"}) is tolerated


def test_a_pods_requests() -> None:
    spec = {
        "containers": [
            {"resources": {"requests": {"cpu": "500m"}}},
            {"resources": {"limits": {"cpu": "1", "nvidia.com/gpu": "1"}}},
        ],
        "initContainers": [{"resources": {"requests": {"cpu": "4", "memory": "1Gi"}}}],
    }
    assert pod_requests({"spec": spec}) == {"cpu": 4, "memory": GIB, "ephemeral-storage": 0, "nvidia.com/gpu": 1}


def test_a_base_model_of_this_machine_needs_no_pod() -> None:
    profile = load_profile("local")
    assert profile.model.dimensions
    assert "base" not in pod_needs(profile, profile.model.dimensions)
    profile = load_profile("a100")
    assert "base" in pod_needs(profile, profile.model.dimensions)


# The adapter to the real API, against a server that answers as the API server does.
ANSWERS: dict[str, tuple[int, Object]] = {
    "/version": (200, {"gitVersion": "v1.36.3"}),
    "/api/v1/namespaces/halops": (200, {"metadata": {"name": "halops"}}),
    "/api/v1/nodes": (403, {"message": 'nodes is forbidden: User "ann" cannot list resource "nodes"'}),
    "/api/v1/pods": (200, {"items": [pod("a")]}),
    "/api/v1/namespaces/halops/serviceaccounts": (200, {"items": [{"metadata": {"name": "halops-train"}}]}),
    "/api/v1/namespaces/halops/secrets/s3": (200, {"data": {"AWS_ACCESS_KEY_ID": "Q0FOQVJZ"}}),
    "/api/v1/namespaces/halops/secrets/none": (404, {"message": "not found"}),
    "/api/v1/namespaces/halops/resourcequotas": (200, {"items": []}),
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        assert path != "/api/v1/pods" or "status.phase" in query
        self._answer(*ANSWERS[path])

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["spec"]["resourceAttributes"]
        allowed = review == {
            "verb": "get",
            "resource": "pods",
            "subresource": "log",
            "group": "",
            "namespace": "halops",
        }
        self._answer(201, {"status": {"allowed": allowed}})

    def _answer(self, status: int, document: Object) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def view() -> Iterator[KubeView]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    yield KubeView(KubeApi(Connection(address, urllib3.PoolManager(), dict), "halops", patience=0))
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_view_of_a_real_api(view: KubeView) -> None:
    assert view.version() == "v1.36.3"
    assert view.namespace() == {"metadata": {"name": "halops"}}
    assert view.nodes() is None
    assert view.pods_on_nodes() == [pod("a")]
    assert view.service_accounts() == {"halops-train"}
    assert view.secret_keys("s3") == {"AWS_ACCESS_KEY_ID"}
    assert view.secret_keys("none") is None
    tried: list[dict[str, str]] = []
    view.try_secret("s3", tried.append)
    view.try_secret("none", tried.append)
    assert [list(values) for values in tried] == [["AWS_ACCESS_KEY_ID"]]
    assert view.quota() == []
    assert view.can_i("get", "pods/log")
    assert not view.can_i("get", "pods")


def test_the_view_of_a_server_that_is_away() -> None:
    view = KubeView(KubeApi(Connection("http://127.0.0.1:9", urllib3.PoolManager(), dict), "halops", patience=0))
    with pytest.raises(HalopsError, match="can't be reached"):
        view.version()
