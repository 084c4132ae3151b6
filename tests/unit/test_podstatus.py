"""What the API server says of pods, Jobs and Workloads -> what a person is told. One row for each way to be stuck.

Messages are copied from the sources of Kubernetes 1.33 to 1.36, containerd 2 and Kueue 0.19.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from halops.diagnosis import Category, Level
from halops.podstatus import (
    Termination,
    explain_job,
    explain_pod,
    explain_refusal,
    explain_workload,
    job_exit_code,
    termination,
)
from halops.quantities import parse_quantity

C, E, W = Category, Level.ERROR, Level.WARNING
LABELS = {"halops.dev/run-id": "ops-0123456789", "halops.dev/stage": "train"}
NAME = "halops-ops-0123456789-train"
IMAGE = "registry.example/ops/halops-train@sha256:" + "a" * 64
SPEC = {
    "nodeName": "gpu-1",
    "containers": [
        {
            "name": "stage",
            "image": IMAGE,
            "env": [
                {"name": "AWS_ACCESS_KEY_ID",
                 "valueFrom": {"secretKeyRef": {"name": "halops-s3", "key": "AWS_ACCESS_KEY_ID"}}},
                {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "halops-hub", "key": "HF_TOKEN"}}},
            ],
            "resources": {
                "requests": {"cpu": "2", "memory": "24Gi", "ephemeral-storage": "60Gi", "nvidia.com/gpu": "1"},
            },
        }
    ],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["34816"]}]}
    ]}}},
}  # fmt: skip


def pod(status: dict[str, Any], name: str = f"{NAME}-x7k2p", **metadata: Any) -> dict[str, Any]:
    head = {"name": name, "namespace": "halops", "labels": LABELS, "creationTimestamp": "2026-11-25T04:00:00Z"}
    return {"metadata": head | metadata, "spec": copy.deepcopy(SPEC), "status": status}


def unscheduled(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
    found = pod({"phase": "Pending", "conditions": [condition]})
    del found["spec"]["nodeName"]
    return found


def waiting(reason: str, message: str = "", **status: Any) -> dict[str, Any]:
    state = {"waiting": {"reason": reason, "message": message}}
    scheduled = {"type": "PodScheduled", "status": "True"}
    return pod({"phase": "Pending", "conditions": [scheduled], "containerStatuses": [
        {"name": "stage", "restartCount": 0, "ready": False, "state": state} | status
    ]})  # fmt: skip


def ended(code: int, reason: str = "Error", message: str = "", **status: Any) -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message, "finishedAt": "2026-11-25T05:00:00Z"}
    phase = "Succeeded" if code == 0 else "Failed"
    return pod({"phase": phase, "containerStatuses": [{"name": "stage", "state": {"terminated": terminated}}]} | status)


def disrupted(cause: str, words: str, code: int = 143, **status: Any) -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": cause, "message": words}
    found = ended(code, conditions=[condition])
    found["status"] |= status
    return found


def event(reason: str, message: str, kind: str = "Pod", name: str = f"{NAME}-x7k2p", time: int = 1) -> dict[str, Any]:
    return {
        "reason": reason,
        "message": message,
        "involvedObject": {"kind": kind, "name": name},
        "lastTimestamp": f"2026-11-25T05:00:{time:02}Z",
    }


def job(*conditions: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": NAME, "namespace": "halops", "labels": LABELS | (labels or {})},
        "spec": {"backoffLimit": 3} | spec,
        "status": {"conditions": list(conditions)},
    }


def failed(reason: str, message: str, kind: str = "Failed") -> dict[str, Any]:
    return {"type": kind, "status": "True", "reason": reason, "message": message}


NO_HELP = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
SOME_HELP = (
    "preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, "
    "1 Preemption is not helpful for scheduling."
)
AFFINITY = "node(s) didn't match Pod's node affinity/selector"

# the scheduler's message -> level, a part of the summary, a part of the remedy
SCHEDULING = [
    (f"0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 {AFFINITY}. {SOME_HELP}", W, "a GPU free", "doctor"),
    (f"0/2 nodes are available: 2 Insufficient nvidia.com/gpu. {NO_HELP}", E, "no node has 1 of nvidia.com/gpu",
     "device plugin"),
    (f"0/2 nodes are available: 1 Insufficient memory, 1 {AFFINITY}. {SOME_HELP}", W, "24Gi of memory free",
     "by itself"),
    (f"0/2 nodes are available: 1 Insufficient memory, 1 {AFFINITY}. {NO_HELP}", E, "large enough: 24Gi of memory",
     "lower cluster.resources.train.memory"),
    (f"0/2 nodes are available: 2 Insufficient cpu, 2 Insufficient ephemeral-storage. {NO_HELP}", E,
     "2 CPU cores and 60Gi of scratch disk", "train.cpu and cluster.resources.train.ephemeral_storage"),
    (f"0/2 nodes are available: 1 Insufficient memory, 1 Insufficient nvidia.com/gpu, 1 {AFFINITY}. {NO_HELP}", E,
     "24Gi of memory and a GPU", "train.memory"),
    (f"0/2 nodes are available: 2 Insufficient cpu. {SOME_HELP}", W, "2 CPU cores free", "by itself"),
    (f"0/2 nodes are available: 2 Too many pods. {SOME_HELP}", W, "room for another pod", "by itself"),
    (f"0/2 nodes are available: 2 {AFFINITY}. {NO_HELP}", E, "more than 34.0 GiB", "cluster.gpu.memory_gib"),
    (f"0/2 nodes are available: 1 {AFFINITY}, 1 node(s) had untolerated taint {{team: vision}}. {NO_HELP}", E,
     "more than 34.0 GiB", "allow the nodes' taint in cluster.tolerations"),
    (f"0/2 nodes are available: 1 {AFFINITY}, 1 node(s) had untolerated taint(s). {NO_HELP}", E, "34.0 GiB",
     "cluster.tolerations"),
    (f"0/2 nodes are available: 1 {AFFINITY}, 1 node(s) had untolerated taint "
     f"{{node-role.kubernetes.io/control-plane: }}. {NO_HELP}", E, "34.0 GiB", "choose a profile"),
    (f"0/2 nodes are available: 2 node(s) had untolerated taint {{team: vision}}. {NO_HELP}", E, "taints",
     "cluster.tolerations"),
    (f"0/2 nodes are available: 2 node(s) had untolerated taint(s). {NO_HELP}", E, "taints", "cluster.tolerations"),
    (f"0/1 nodes are available: 1 node(s) had untolerated taint {{node.kubernetes.io/not-ready: }}. {NO_HELP}", W,
     "aren't ready", "describe node"),
    (f"0/1 nodes are available: 1 node(s) were unschedulable. {NO_HELP}", W, "cordoned", "uncordon"),
    (f"0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {NO_HELP}", E, "volume", "pvc"),
    ("no nodes available to schedule pods", W, "no nodes", "autoscaler"),
    ("0/2 nodes are available: 2 node(s) didn't satisfy existing pods anti-affinity rules.", W, "no node takes it",
     "reasons"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "level", "summary", "remedy"), SCHEDULING)
def test_a_pod_without_a_node(message: str, level: Level, summary: str, remedy: str) -> None:
    found = explain_pod(unscheduled(message))
    assert found
    assert (found.category, found.level) == (C.UNSCHEDULABLE, level)
    assert found.summary.startswith("train: ")
    assert summary in found.summary
    assert remedy in found.resolution
    assert found.detail == message.partition(" preemption:")[0]


def test_without_gpu_affinity_labels_are_to_blame() -> None:
    blocked = unscheduled(f"0/2 nodes are available: 2 {AFFINITY}. {NO_HELP}")
    del blocked["spec"]["affinity"]
    assert "cluster.node_selector" in explain_pod(blocked).resolution


def test_a_node_that_is_being_added() -> None:
    blocked = unscheduled(f"0/2 nodes are available: 2 {AFFINITY}. {NO_HELP}")
    said = event("TriggeredScaleUp", "pod triggered scale-up: [{gpu-pool 0->1 (max: 4)}]")
    found = explain_pod(blocked, [said])
    assert (found.level, found.detail) == (W, said["message"])
    other = said | {"involvedObject": {"kind": "Pod", "name": "another"}}
    assert explain_pod(blocked, [other]).level is E


def test_other_reasons_of_the_scheduler() -> None:
    gated = unscheduled("Scheduling is blocked due to non-empty scheduling gates", "SchedulingGated")
    assert explain_pod(gated).category is C.QUEUED
    assert "scheduler itself" in explain_pod(unscheduled("boom", "SchedulerError")).summary


REF = f'failed to pull and unpack image "{IMAGE}": failed to resolve image'
# the container's reason and message -> category, level, a part of the summary, a part of the remedy
STARTING = [
    ("ErrImagePull", f"{REF}: {IMAGE}: not found", C.IMAGE, E, "doesn't have its image", "halops images --push"),
    ("ImagePullBackOff", f'Back-off pulling image "{IMAGE}": ErrImagePull: {REF}: {IMAGE}: not found', C.IMAGE, E,
     "doesn't have its image", "halops images --push"),
    ("ErrImagePull", f"{REF}: pull access denied, repository does not exist or may require authorization: server "
     "message: insufficient_scope: authorization failed", C.IMAGE, E, "doesn't let", "imagePullSecret"),
    ("ErrImagePull", f"{REF}: unexpected status from HEAD request to https://registry.example/v2/: 401 Unauthorized",
     C.IMAGE, E, "doesn't let", "imagePullSecret"),
    ("ErrImagePull", f'{REF}: failed to do request: Head "https://registry.example": dial tcp: lookup '
     "registry.example: no such host", C.IMAGE, W, "can't reach", "address"),
    ("ErrImagePull", f"{REF}: tls: failed to verify certificate: x509: certificate signed by unknown authority",
     C.IMAGE, E, "certificate", "authority"),
    ("ErrImagePull", f"{REF}: http: server gave HTTP response to HTTPS client", C.IMAGE, E, "plain HTTP",
     "certificate"),
    ("ErrImagePull", f"{REF}: no match for platform in manifest: not found", C.IMAGE, E, "processor", "nodes"),
    ("ErrImagePull", f"{REF}: write /var/lib/x: no space left on device", C.DISK_FULL, E, "disk", "free"),
    ("ErrImagePull", f"{REF}: 429 Too Many Requests - toomanyrequests", C.IMAGE, W, "limits", "tries again"),
    ("RegistryUnavailable", f"image pull failed for {IMAGE} because the registry is unavailable", C.IMAGE, W,
     "can't reach", "address"),
    ("SignatureValidationFailed", f"image pull failed for {IMAGE} because the signature validation failed", C.IMAGE, E,
     "signature", "sign it"),
    ("ErrImagePull", "something new", C.IMAGE, E, "can't be pulled", "detail"),
    ("InvalidImageName", 'Failed to apply default image tag "REGISTRY/x": couldn\'t parse image name', C.IMAGE, E,
     "name isn't one", "halops.yaml"),
    ("ErrImageNeverPull", f'Container image "{IMAGE}" is not present with pull policy of Never', C.IMAGE, E,
     "isn't on the node", "import"),
    ("CreateContainerConfigError", 'secret "halops-s3" not found', C.SETUP, E, "Secret halops-s3",
     "kubectl -n halops create secret generic halops-s3 --from-env-file=FILE, with AWS_ACCESS_KEY_ID"),
    ("CreateContainerConfigError", 'secret "halops-hub" not found', C.SETUP, E, "Secret halops-hub", "HF_TOKEN"),
    ("CreateContainerConfigError", "couldn't find key AWS_SECRET_ACCESS_KEY in Secret halops/halops-s3", C.SETUP, E,
     "Secret halops-s3 has no key AWS_SECRET_ACCESS_KEY", "kubectl -n halops edit secret halops-s3"),
    ("CreateContainerConfigError", "couldn't find key run.json in ConfigMap halops/x", C.SETUP, E, "ConfigMap x",
     "edit"),
    ("CreateContainerConfigError", 'configmap "halops-ops-0123456789" not found', C.SETUP, E, "ConfigMap", "submit"),
    ("CreateContainerConfigError", 'container has runAsNonRoot and image will run as root (pod: "p", container: stage)',
     C.IMAGE, E, "as root", "halops images"),
    ("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition", C.NODE, W,
     "API server", "by itself"),
    ("CreateContainerConfigError", "something new", C.SETUP, E, "set up", "detail"),
    ("CreateContainerError", "context deadline exceeded", C.NODE, W, "runtime", "describe node gpu-1"),
    ("RunContainerError", 'failed to create containerd task: runc create failed: exec: "/usr/bin/tini": stat '
     "/usr/bin/tini: no such file or directory", C.IMAGE, E, "lacks the program", "halops images"),
    ("RunContainerError", "exec /usr/bin/tini: exec format error", C.IMAGE, E, "processor", "nodes"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "message", "category", "level", "summary", "remedy"), STARTING)
def test_a_container_that_does_not_start(
    reason: str, message: str, category: Category, level: Level, summary: str, remedy: str
) -> None:
    found = explain_pod(waiting(reason, message))
    assert found
    assert (found.category, found.level) == (category, level)
    assert summary in found.summary
    assert remedy in found.resolution
    assert found.detail == message


def test_a_start_error_is_an_end_too() -> None:
    message = 'failed to create containerd task: exec: "python": executable file not found in $PATH'
    assert explain_pod(ended(128, "StartError", message)).category is C.IMAGE


def test_an_init_container_counts() -> None:
    found = waiting("PodInitializing")
    found["status"]["initContainerStatuses"] = [
        {"name": "fetch", "state": {"waiting": {"reason": "ErrImagePull", "message": f"{IMAGE}: not found"}}}
    ]
    assert explain_pod(found).category is C.IMAGE


def test_volumes_and_the_pods_network() -> None:
    fresh = waiting("ContainerCreating")
    lost = event("FailedMount", 'MountVolume.SetUp failed for volume "spec" : configmap "halops-x" not found')
    assert explain_pod(fresh, [lost]).category is C.SETUP
    assert "ConfigMap halops-x" in explain_pod(fresh, [lost]).summary
    other = event("FailedMount", "Unable to attach or mount volumes: unmounted volumes=[work]")
    assert "can't be mounted" in explain_pod(fresh, [other]).summary
    network = event("FailedCreatePodSandBox", "Failed to create pod sandbox: plugin type=bridge failed (add)")
    assert explain_pod(fresh, [network]).category is C.NODE
    assert explain_pod(fresh, [network, event("Pulling", "Pulling image", time=2)]) is None


def test_a_coordinator_that_ends_again_and_again() -> None:
    last = {"terminated": {"exitCode": 75, "reason": "Error", "message": "error: the store doesn't answer\n"}}
    found = explain_pod(waiting("CrashLoopBackOff", "back-off 20s restarting", lastState=last, restartCount=4))
    assert found.summary == "train: the store doesn't answer"
    assert "4 restarts" in found.detail
    assert explain_pod(waiting("CrashLoopBackOff", "back-off")).category is C.CRASH


@pytest.mark.parametrize(
    "well",
    [
        pod({"phase": "Pending"}),
        pod({"phase": "Running", "containerStatuses": [{"name": "stage", "state": {"running": {}}}]}),
        waiting("ContainerCreating"),
        ended(0, "Completed"),
    ],
)
def test_all_is_well(well: dict[str, Any]) -> None:
    assert explain_pod(well) is None


BAD_DATA = """{"event": "progress", "step": 1}
error: 2 problems in the data
  - train.jsonl line 7: no answer
  - train.jsonl line 9: not JSON
  where:  data/final/train.jsonl
  remedy: `halops data check` lists them all
"""
WRONG_KEY = """error: the store doesn't know this access key (InvalidAccessKeyId)
  where:  s3://ops/runs at http://10.0.0.5:7070
  remedy: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE
"""
LOW = "The node was low on resource: {}. Threshold quantity: 100Mi, available: 61Mi. "
# pod -> category, level, a part of the summary, a part of the remedy
ENDS = [
    (ended(42, message=BAD_DATA), C.CONFIG, E, "2 problems in the data", "data check"),
    (ended(42), C.CONFIG, E, "configuration or the data", "mend"),
    (ended(43), C.INTEGRITY, E, "digest", "resume"),
    (ended(44), C.GPU_MEMORY, E, "GPU's memory", "plan"),
    (ended(75), C.INTERRUPTED, W, "saved", "by itself"),
    (ended(75, message=WRONG_KEY), C.CREDENTIALS, E, "access key", "secrets.s3"),
    (ended(75, message="error: the store doesn't answer\n"), C.INTERRUPTED, W, "doesn't answer", "by itself"),
    (ended(137), C.KILLED, W, "killed from outside", "by itself"),
    (ended(137, "OOMKilled"), C.HOST_MEMORY, E, "more memory", "memory"),
    (ended(143), C.INTERRUPTED, W, "told to stop", "by itself"),
    (ended(139), C.CRASH, E, "crashed", "report"),
    (ended(7, message="error: parity failed\n  remedy: look\n"), C.VERIFICATION, E, "parity failed", "look"),
    (ended(1, message="Traceback (most recent call last):\nKeyError: 'x'"), C.BUG, E, "unexpected", "report"),
    (ended(1, message="torch.OutOfMemoryError: CUDA out of memory."), C.GPU_MEMORY, E, "GPU's memory", "plan"),
    (ended(137, reason="ContainerStatusUnknown"), C.NODE_LOST, W, "lost sight", "by itself"),
    (disrupted("TerminationByKubelet", LOW.format("memory"), reason="Evicted", message=LOW.format("memory")), C.EVICTED,
     W, "short of memory", "larger request"),
    (disrupted("TerminationByKubelet", "The node had condition: [DiskPressure]. ", reason="Evicted"), C.EVICTED, W,
     "short of DiskPressure", "by itself"),
    (pod({"phase": "Failed", "reason": "Evicted",
          "message": 'Container stage exceeded its local ephemeral storage limit "60Gi". '}),
     C.DISK_FULL, E, "scratch disk", "cluster.resources.train.ephemeral_storage"),
    (pod({"phase": "Failed", "reason": "Evicted",
          "message": 'Usage of EmptyDir volume "work" exceeds the limit "1Gi". '}),
     C.DISK_FULL, E, "scratch disk", "ephemeral_storage"),
    (disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod", 75),
     C.PREEMPTED, W, "higher priority", "by itself"),
    (disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), C.EVICTED, W, "drained", "by itself"),
    (disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), C.NODE_LOST, W, "taint",
     "by itself"),
    (disrupted("DeletionByPodGC", "PodGC: node no longer exists"), C.NODE_LOST, W, "gone", "by itself"),
    (disrupted("TerminationByKubelet", "Pod was terminated in response to imminent node shutdown.",
               reason="Terminated"),
     C.NODE_LOST, W, "shut down", "by itself"),
    (pod({"phase": "Failed", "reason": "UnexpectedAdmissionError",
          "message": "Allocate failed due to requested number of devices "
          "unavailable for nvidia.com/gpu. Requested: 1, Available: 0, which is unexpected"}), C.NODE, W, "promised",
     "by itself"),
    (pod({"phase": "Failed", "reason": "OutOfcpu", "message": "Node didn't have enough resource: cpu"}), C.NODE, W,
     "no cpu left", "by itself"),
    (pod({"phase": "Failed", "reason": "DeadlineExceeded", "message": "Pod was active on the node longer than the "
     "specified deadline"}), C.DEADLINE, E, "longer than it may", "resume"),
]  # fmt: skip


@pytest.mark.parametrize(("end", "category", "level", "summary", "remedy"), ENDS)
def test_a_pod_that_ended(end: dict[str, Any], category: Category, level: Level, summary: str, remedy: str) -> None:
    found = explain_pod(end)
    assert found
    assert (found.category, found.level) == (category, level)
    assert found.summary.startswith("train: ")
    assert summary in found.summary
    assert remedy in found.resolution
    assert found.detail


def test_the_stages_own_words_name_line_and_file() -> None:
    found = explain_pod(ended(42, message=BAD_DATA))
    expected = "train.jsonl line 7: no answer; train.jsonl line 9: not JSON (data/final/train.jsonl)"
    assert found.detail == expected


def test_terminations() -> None:
    assert termination(pod({"phase": "Running"})) is None
    assert termination(ended(137, "OOMKilled")) == Termination(exit_code=137, reason="OOMKilled")
    gone = disrupted("PreemptionByScheduler", "default-scheduler: preempting", 75)
    assert termination(gone) == Termination(
        exit_code=75, reason="PreemptionByScheduler", disrupted=True, message="default-scheduler: preempting"
    )
    evicted = termination(pod({"phase": "Failed", "reason": "Evicted", "message": "low"}))
    assert (evicted.exit_code, evicted.disrupted, evicted.message) == (None, False, "low")
    assert termination(ended(137, "ContainerStatusUnknown")).exit_code is None
    both = ended(137, "OOMKilled")
    both["status"]["reason"] = "Evicted"
    assert termination(both).reason == "OOMKilled"
    stale = ended(137, conditions=[{"type": "DisruptionTarget", "status": "False", "reason": "X"}])
    assert not termination(stale).disrupted


def test_a_pod_that_can_not_be_ended() -> None:
    running = {"phase": "Running", "containerStatuses": [{"name": "stage", "state": {"running": {}}}]}
    stuck = pod(running, deletionTimestamp="2026-11-25T05:00:00Z")
    late, soon = datetime(2026, 11, 25, 5, 2, tzinfo=UTC), datetime(2026, 11, 25, 5, 0, 30, tzinfo=UTC)
    found = explain_pod(stuck, now=late)
    assert (found.category, found.level) == (C.NODE_LOST, E)
    assert "gpu-1 node.kubernetes.io/out-of-service" in found.resolution
    assert explain_pod(stuck, now=soon) is None
    drained = copy.deepcopy(stuck)
    drained["status"]["conditions"] = [
        {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "evicting"}
    ]
    assert explain_pod(drained, now=soon).category is C.EVICTED


def test_a_node_that_fell_silent() -> None:
    running = pod({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}],
                   "containerStatuses": [{"name": "stage", "state": {"running": {}}}]})  # fmt: skip
    found = explain_pod(running, [event("NodeNotReady", "Node is not ready")])
    assert (found.category, found.level) == (C.NODE_LOST, W)
    assert "gpu-1" in found.summary
    running["status"]["conditions"][0]["status"] = "True"
    assert explain_pod(running, [event("NodeNotReady", "Node is not ready")]) is None


FORBIDDEN = f'pods "{NAME}-x7k2p" is forbidden: '
REFUSALS = [
    ("exceeded quota: halops, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=2, limited: "
     "requests.nvidia.com/gpu=2", C.QUOTA, W, "requests.nvidia.com/gpu 1 asked, 2 of 2 in use"),
    ("exceeded quota: halops, requested: requests.memory=48Gi, used: requests.memory=0, limited: requests.memory=32Gi",
     C.QUOTA, E, "ever allows"),
    ("failed quota: halops: must specify limits.cpu for: stage", C.QUOTA, E, "sets limits.cpu"),
    ('violates PodSecurity "restricted:latest": allowPrivilegeEscalation != false (container "stage" must set '
     "securityContext.allowPrivilegeEscalation=false)", C.REFUSED, E, "restricted:latest"),
    ('error looking up service account halops/halops-train: serviceaccount "halops-train" not found', C.SETUP, E,
     "ServiceAccount halops-train"),
    ("no PriorityClass with name spot was found", C.SETUP, E, "PriorityClass spot"),
    ('pod rejected: RuntimeClass "nvidia" not found', C.SETUP, E, "RuntimeClass nvidia"),
    ("[maximum memory usage per Container is 4Gi, but limit is 24Gi]", C.REFUSED, E, "maximum 4Gi for a Container"),
    ("minimum cpu usage per Container is 500m, but request is 100m", C.REFUSED, E, "minimum 500m"),
    ("unable to create new content in namespace halops because it is being terminated", C.SETUP, E, "namespace"),
    ("something new", C.REFUSED, E, "refuses"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "category", "level", "summary"), REFUSALS)
def test_a_job_that_may_not_make_its_pod(reason: str, category: Category, level: Level, summary: str) -> None:
    refused = event("FailedCreate", f"Error creating: {FORBIDDEN}{reason}", "Job", NAME)
    found = explain_job(job(), [], [refused])
    assert (found.category, found.level) == (category, level)
    assert summary in found.summary
    assert found.detail == FORBIDDEN + reason
    assert explain_job(job(), [], [refused, event("SuccessfulCreate", "Created pod", "Job", NAME, time=2)]) is None


def test_refusals_of_webhooks_and_of_rights() -> None:
    denied = explain_refusal('admission webhook "validate.kyverno.svc-fail" denied the request: no', "train")
    assert "validate.kyverno.svc-fail" in denied.summary
    silent = explain_refusal(
        'Internal error occurred: failed calling webhook "mpod.kueue.x-k8s.io": connection refused'
    )
    assert silent.level is W
    rights = explain_refusal('jobs.batch is forbidden: User "ann" cannot create resource "jobs" in API group "batch"')
    assert rights.category is C.CREDENTIALS


RULE = f"Container stage for pod halops/{NAME}-x7k2p failed with exit code {{}} matching FailJob rule at index 0"


def test_a_failed_job() -> None:
    by_rule = job(failed("PodFailurePolicy", RULE.format(42)))
    assert job_exit_code(by_rule) == 42
    assert explain_job(by_rule, []).category is C.CONFIG
    assert "2 problems" in explain_job(by_rule, [ended(42, message=BAD_DATA)]).summary
    assert explain_job(job(failed("PodFailurePolicy", RULE.format(137))), []).category is C.KILLED
    target = job(failed("PodFailurePolicy", RULE.format(44), "FailureTarget"))
    assert (job_exit_code(target), explain_job(target, []).category) == (44, C.GPU_MEMORY)
    late = job(failed("DeadlineExceeded", "Job was active longer than specified deadline"), activeDeadlineSeconds=7200)
    assert (explain_job(late, []).category, job_exit_code(late)) == (C.DEADLINE, None)
    assert "7200 s" in explain_job(late, []).summary


def test_a_job_that_failed_too_often() -> None:
    spent = job(failed("BackoffLimitExceeded", "Job has reached the specified backoff limit"))
    assert "too often" in explain_job(spent, []).summary
    older = ended(1, message="KeyError")
    older["metadata"]["creationTimestamp"] = "2026-11-25T03:00:00Z"
    found = explain_job(spent, [ended(75), older])
    assert (found.category, found.level) == (C.INTERRUPTED, E)
    assert "4 times" in found.summary
    assert "halops resume" in found.resolution


def test_a_job_at_work_or_done() -> None:
    running = pod({"phase": "Running", "containerStatuses": [{"name": "stage", "state": {"running": {}}}]})
    assert explain_job(job(), [ended(75), running]) is None
    assert explain_job(job({"type": "Complete", "status": "True"}), [ended(75)]) is None
    assert explain_job(job(), []) is None
    again = explain_job(job(), [ended(1, message="KeyError")])
    assert again.level is W
    assert "another attempt follows" in again.summary


def test_the_worst_of_several_pods() -> None:
    busy = unscheduled(SCHEDULING[0][0])
    broken = waiting("CreateContainerConfigError", 'secret "halops-s3" not found')
    assert explain_job(job(), [busy, broken]).category is C.SETUP
    assert explain_job(job(), [broken, busy]).category is C.SETUP


QUEUE = {"kueue.x-k8s.io/queue-name": "gpu"}


def workload(*conditions: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "job-x"},
        "spec": {"queueName": "gpu"} | spec,
        "status": {"conditions": list(conditions)},
    }


def unreserved(message: str, reason: str = "Pending") -> dict[str, Any]:
    return {"type": "QuotaReserved", "status": "False", "reason": reason, "message": message}


POD_SET = "couldn't assign flavors to pod set main: "
UNUSED = POD_SET + "insufficient unused quota for nvidia.com/gpu in flavor a100, 1 more needed"
TOO_MUCH = (
    POD_SET + "insufficient quota for nvidia.com/gpu in flavor a100, previously considered podsets requests (0) + "
    "current podset request (4) > maximum capacity (2)"
)
WORKLOADS = [
    (workload(unreserved(UNUSED)), C.QUEUED, W, "queue gpu for quota: 1 more nvidia.com/gpu needed in flavor a100"),
    (workload(unreserved(UNUSED, "WaitingForQuota")), C.QUEUED, W, "queue gpu for quota"),
    (workload(unreserved(TOO_MUCH)), C.QUOTA, E, "4 nvidia.com/gpu asked, 2 at most in flavor a100"),
    (workload(unreserved(TOO_MUCH, "ExceedsMaxQuota")), C.QUOTA, E, "ever give"),
    (workload(unreserved(POD_SET + "flavor a100 doesn't match node affinity")), C.UNSCHEDULABLE, E,
     "no ResourceFlavor"),
    (workload(unreserved(POD_SET + "x", "NoMatchingFlavor")), C.UNSCHEDULABLE, E, "no ResourceFlavor"),
    (workload(unreserved("LocalQueue gpu doesn't exist", "Inadmissible")), C.SETUP, E, "LocalQueue gpu doesn't exist"),
    (workload(unreserved("LocalQueue gpu doesn't exist", "Misconfigured")), C.SETUP, E, "can't be used"),
    (workload(unreserved("ClusterQueue halops is inactive", "Suspended")), C.QUEUED, W, "takes nothing"),
    (workload(unreserved("ClusterQueue halops is inactive")), C.QUEUED, W, "takes nothing"),
    (workload(unreserved("x", "WaitingForPreemptedWorkloads")), C.QUEUED, W, "make room"),
    (workload(), C.QUEUED, W, "waits in queue gpu"),
    (workload({"type": "QuotaReserved", "status": "True"}), C.QUEUED, W, "admission check"),
    (workload({"type": "Evicted", "status": "True", "reason": "Preempted", "message": "Preempted to accommodate a "
     "workload (UID: u, JobUID: j) due to prioritization in the ClusterQueue"}), C.PREEMPTED, W, "higher priority"),
    (workload({"type": "Evicted", "status": "True", "reason": "PodsReadyTimeout", "message": "Exceeded the PodsReady "
     "timeout ns/x"}), C.EVICTED, W, "took its place back"),
    (workload(active=False), C.SUSPENDED, E, "switched off"),
]  # fmt: skip


@pytest.mark.parametrize(("item", "category", "level", "summary"), WORKLOADS)
def test_what_kueue_waits_for(item: dict[str, Any], category: Category, level: Level, summary: str) -> None:
    found = explain_job(job(labels=QUEUE, suspend=True), [], workload=item)
    assert (found.category, found.level) == (category, level)
    assert found.summary.startswith("train: ")
    assert summary in found.summary
    assert found.resolution


def test_workloads_that_are_well() -> None:
    assert explain_workload(workload({"type": "Admitted", "status": "True"})) is None
    assert explain_workload(workload({"type": "Finished", "status": "True"}, unreserved(UNUSED))) is None
    again = workload({"type": "Evicted", "status": "True", "reason": "Preempted", "message": "x"}, unreserved(UNUSED))
    assert explain_workload(again).category is C.QUEUED


def test_a_suspended_job_without_its_workload() -> None:
    assert "queue gpu" in explain_job(job(labels=QUEUE, suspend=True), []).summary
    by_hand = explain_job(job(suspend=True), [])
    assert by_hand.category is C.SUSPENDED
    assert f'kubectl patch job {NAME} --type merge -p \'{{"spec":{{"suspend":false}}}}\'' == by_hand.resolution


@pytest.mark.parametrize(
    ("text", "value"),
    [("500m", 0.5), ("2", 2), ("7600Mi", 7600 * 2**20), ("30G", 30e9), ("1e3", 1000), ("1.5Gi", 1.5 * 2**30),
     ("1E", 1e18), ("0", 0)],
)  # fmt: skip
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text) == value


def test_what_is_no_quantity() -> None:
    for text in ("", "Gi", "1 Gi", "1KiB", "one"):
        with pytest.raises(ValueError, match="is no quantity"):
            parse_quantity(text)
