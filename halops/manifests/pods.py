"""Pod templates that the `restricted` Pod Security standard admits, GPU stages included."""

from __future__ import annotations

from typing import Any

from halops import names
from halops.manifests.needs import Needs
from halops.manifests.placement import Placement
from halops.runspec import RunSpec

UID = 10001  # the user `halops` of our images
SPEC_FOLDER = "/etc/halops"
WORK, TMP = "/work", "/tmp"
GRACE_SECONDS = 120  # a checkpoint's time; spot nodes give 15 to 30, and that does too
GPU_MEMORY_SHARE = 0.85  # of the asked GiB in MiB: cards report a little less than they are sold with
CACHES = {
    "HOME": TMP,
    "TMPDIR": TMP,
    "XDG_CACHE_HOME": f"{TMP}/cache",
    "HF_HOME": f"{TMP}/huggingface",
    "TRITON_CACHE_DIR": f"{TMP}/triton",
    "TORCHINDUCTOR_CACHE_DIR": f"{TMP}/inductor",
    "MPLCONFIGDIR": f"{TMP}/matplotlib",
    **names.THREADS,
    "PYTHONUNBUFFERED": "1",
}

Object = dict[str, Any]


def labels(run_id: str, stage: str) -> dict[str, str]:
    """Labels of every object of a stage."""
    return {
        "app.kubernetes.io/name": names.PREFIX,
        "app.kubernetes.io/component": stage,
        "app.kubernetes.io/managed-by": names.PREFIX,
        names.LABEL_RUN: run_id,
        names.LABEL_STAGE: stage,
    }


def pod_template(spec: RunSpec, placement: Placement, stage: str, image: str, args: list[str], needs: Needs) -> Object:
    """The template of a stage's (or the coordinator's) Job."""
    cluster = spec.profile.cluster
    pod: Object = {
        "restartPolicy": "Never",
        # k8s/ makes an account for each stage of the chain; beside it, convert's does.
        "serviceAccountName": f"{names.PREFIX}-{'convert' if stage in names.FAST_STAGES else stage}",
        "automountServiceAccountToken": stage == names.COORDINATOR,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True, "runAsUser": UID, "runAsGroup": UID, "fsGroup": UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(spec, placement, stage, image, args, needs)],
        "volumes": _volumes(spec, stage, needs),
    }  # fmt: skip
    if cluster.node_selector:
        pod["nodeSelector"] = dict(cluster.node_selector)
    if tolerations := _tolerations(spec, needs):
        pod["tolerations"] = tolerations
    if needs.gpus and cluster.gpu.memory_gib:
        pod["affinity"] = gpu_affinity(cluster.gpu.memory_gib)
    if cluster.priority_class and stage != names.COORDINATOR:
        pod["priorityClassName"] = cluster.priority_class
    if needs.gpus and cluster.runtime_class:
        pod["runtimeClassName"] = cluster.runtime_class
    annotations = {"karpenter.sh/do-not-disrupt": "true"} if stage == "train" else {}
    metadata: Object = {"labels": labels(spec.run_id, stage)}
    return {"metadata": metadata | ({"annotations": annotations} if annotations else {}), "spec": pod}


def gpu_affinity(memory_gib: float) -> Object:
    """Nodes whose cards have that much memory by GPU feature discovery's label, which is in MiB."""
    least = int(memory_gib * 1024 * GPU_MEMORY_SHARE)
    expression = {"key": names.GPU_MEMORY_LABEL, "operator": "Gt", "values": [str(least)]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}


def _container(spec: RunSpec, placement: Placement, stage: str, image: str, args: list[str], needs: Needs) -> Object:
    amounts = {"memory": needs.memory, "ephemeral-storage": needs.ephemeral_storage}
    gpus = {names.GPU_RESOURCE: str(needs.gpus)} if needs.gpus else {}
    mounts = [
        {"name": "spec", "mountPath": SPEC_FOLDER, "readOnly": True},
        {"name": "work", "mountPath": WORK},
        {"name": "tmp", "mountPath": TMP},
    ]
    if needs.gpus:
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "name": names.CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": args,
        "env": _environment(placement, stage, image),
        # No CPU limit: throttling a stage that could use an idle core only makes it longer.
        "resources": {"requests": {"cpu": needs.cpu} | amounts | gpus, "limits": amounts | gpus},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _environment(placement: Placement, stage: str, image: str) -> list[Object]:
    plain = CACHES | {names.ENV_IMAGE: image}
    if placement.endpoint_url:
        plain["AWS_ENDPOINT_URL_S3"] = placement.endpoint_url
    if placement.region:
        plain["AWS_REGION"] = placement.region
    entries: list[Object] = [{"name": name, "value": value} for name, value in plain.items()]
    entries.append({"name": names.ENV_ATTEMPT, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}})
    if placement.s3_secret:
        entries += [
            _from_secret("AWS_ACCESS_KEY_ID", placement.s3_secret),
            _from_secret("AWS_SECRET_ACCESS_KEY", placement.s3_secret),
            _from_secret("AWS_SESSION_TOKEN", placement.s3_secret, optional=True),
        ]
    if stage == "base" and placement.hub_secret:
        entries.append(_from_secret("HF_TOKEN", placement.hub_secret))
    return entries


def _from_secret(key: str, secret: str, *, optional: bool = False) -> Object:
    reference = {"name": secret, "key": key} | ({"optional": True} if optional else {})
    return {"name": key, "valueFrom": {"secretKeyRef": reference}}


def _volumes(spec: RunSpec, stage: str, needs: Needs) -> list[Object]:
    items = [names.SPEC] + ([names.JOBS] if stage == names.COORDINATOR else [])
    root = {"name": f"{names.PREFIX}-{spec.run_id}", "items": [{"key": item, "path": item} for item in items]}
    volumes: list[Object] = [
        {"name": "spec", "configMap": root},
        {"name": "work", "emptyDir": {"sizeLimit": needs.ephemeral_storage}},
        {"name": "tmp", "emptyDir": {"sizeLimit": needs.ephemeral_storage}},
    ]
    if needs.gpus:  # the default of 64 MiB is too small for NCCL between cards
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}})
    return volumes


def _tolerations(spec: RunSpec, needs: Needs) -> list[Object]:
    given = [item.model_dump(exclude_none=True) for item in spec.profile.cluster.tolerations]
    # GPU nodes are tainted so that other work stays away; not every admission plugin tolerates for us.
    gpu = [{"key": names.GPU_RESOURCE, "operator": "Exists", "effect": "NoSchedule"}] if needs.gpus else []
    return gpu + given
