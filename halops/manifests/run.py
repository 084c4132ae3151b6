"""All objects of a run: the root that owns everything, the coordinator's rights, and every Job."""

from __future__ import annotations

import json
from typing import Any

import yaml

from halops import names
from halops.artifact import Frozen, sha256_bytes
from halops.manifests.jobs import coordinator_job, job_name, stage_job
from halops.manifests.needs import Needs
from halops.manifests.placement import Placement, check_images
from halops.manifests.pods import Object, labels
from halops.names import COORDINATOR, root_name
from halops.plan import fast_steps, make_plan
from halops.runspec import RunSpec


class Rendered(Frozen):
    """Objects in the order in which they are created; owners are set when the root's uid is known."""

    root: dict[str, Any]
    rights: tuple[dict[str, Any], ...]
    network: tuple[dict[str, Any], ...]
    coordinator: dict[str, Any]
    stages: dict[str, dict[str, Any]]
    fast: dict[str, dict[str, Any]] = {}  # Jobs beside the chain, made when `deploy --fast` asks for them

    def objects(self) -> list[Object]:
        """Everything, as `submit --dry-run` prints it and a golden render keeps it."""
        return [self.root, *self.rights, *self.network, self.coordinator, *self.stages.values()]


def render(spec: RunSpec, placement: Placement, needs: dict[str, Needs]) -> Rendered:
    """A run's objects. Raises ConfigError if an image isn't locked by digest."""
    check_images(spec)
    coordinator = coordinator_job(spec, placement, needs[COORDINATOR])
    stages = {
        step.stage: stage_job(spec, placement, step, needs[step.stage])
        for step in make_plan(spec).steps
        if step.stage != "base" or mirrored_by_job(spec)
    }
    return Rendered(
        root=_root(spec, placement, [*stages.values(), coordinator]),
        rights=_rights(spec, placement.namespace),
        network=_network(spec, placement.namespace) if spec.profile.cluster.nodes > 1 else (),
        coordinator=coordinator,
        stages=stages,
        # The converter, on as large a model or on far less: what convert needs is enough.
        fast={step.stage: stage_job(spec, placement, step, needs["convert"]) for step in fast_steps(spec)},
    )


def rebuild(spec: RunSpec, root: Object) -> Rendered:
    """What a root was made with, from the Jobs that it keeps."""
    namespace = root["metadata"]["namespace"]
    jobs = jobs_of(root["data"][names.JOBS])
    return Rendered(
        root=_without_server_fields(root),
        rights=_rights(spec, namespace),
        network=_network(spec, namespace) if spec.profile.cluster.nodes > 1 else (),
        coordinator=jobs.pop(COORDINATOR),
        stages=jobs,
    )


def jobs_of(text: str) -> dict[str, Object]:
    """Stage (or `coordinator`) -> its Job, from a root's jobs.yaml."""
    return {job["metadata"]["labels"][names.LABEL_STAGE]: job for job in yaml.safe_load_all(text)}


def _without_server_fields(item: Object) -> Object:
    kept = {key: item["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
    return item | {"metadata": kept}


def mirrored_by_job(spec: RunSpec) -> bool:
    """Whether a Job fetches the base model; what only this machine has, the submitter mirrors."""
    return spec.base.uri.startswith(("hf://", "s3://"))


def to_yaml(objects: list[Object]) -> str:
    """Several documents in one stream, keys in the order in which people write them."""
    return yaml.safe_dump_all(objects, sort_keys=False, width=120)


def _root(spec: RunSpec, placement: Placement, made: list[Object]) -> Object:
    jobs = to_yaml(made)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": root_name(spec.run_id),
            "namespace": placement.namespace,
            "labels": labels(spec.run_id, "run"),
            "annotations": {
                names.ANNOTATION_SPEC: spec.sha256,
                names.ANNOTATION_JOBS: sha256_bytes(jobs.encode()),
                names.ANNOTATION_STORE: placement.store,
            },
        },
        "immutable": True,
        "data": {names.SPEC: json.dumps(json.loads(spec.to_bytes()), indent=2), names.JOBS: jobs},
    }


def _rights(spec: RunSpec, namespace: str) -> tuple[Object, ...]:
    """What the coordinator uses, and nothing else. Creating Jobs can't be limited by name: hence an own namespace."""
    name = root_name(spec.run_id)
    metadata = {"name": name, "namespace": namespace, "labels": labels(spec.run_id, COORDINATOR)}
    rules = [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [name], "verbs": ["get", "patch"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "list", "create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
        {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["list"]},
        {"apiGroups": ["kueue.x-k8s.io"], "resources": ["workloads"], "verbs": ["list"]},  # why a queued Job waits
    ]
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": metadata, "rules": rules}
    account = {"kind": "ServiceAccount", "name": f"{names.PREFIX}-{COORDINATOR}", "namespace": namespace}
    binding = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": metadata,
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [account],
    }
    return role, binding


def _network(spec: RunSpec, namespace: str) -> tuple[Object, ...]:
    """Training on several nodes: a headless Service for its pods' names, and leave to talk to each other."""
    chosen = {names.LABEL_RUN: spec.run_id, names.LABEL_STAGE: "train"}
    metadata = {"namespace": namespace, "labels": labels(spec.run_id, "train")}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": job_name(spec.run_id, "train")} | metadata,
        # Workers look each other up before they are ready for anything.
        "spec": {"clusterIP": "None", "selector": chosen, "publishNotReadyAddresses": True},
    }
    peers = [{"podSelector": {"matchLabels": chosen}}]
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": job_name(spec.run_id, "train")} | metadata,
        "spec": {
            "podSelector": {"matchLabels": chosen},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": peers}],
            "egress": [{"to": peers}],
        },
    }
    return service, policy
