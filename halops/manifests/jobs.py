"""Jobs of stages and of the coordinator; and a stage's next attempt, made from its first."""

from __future__ import annotations

import copy
import json

from halops import names
from halops.manifests.needs import Needs
from halops.manifests.placement import Placement
from halops.manifests.pods import SPEC_FOLDER, WORK, Object, labels, pod_template
from halops.names import root_name
from halops.plan import Step, image_of
from halops.runspec import RunSpec

BACKOFF_LIMIT = 3
KEEP_SECONDS = 7 * 24 * 3600  # finished Jobs stay that long for those who look; the store is the truth anyway
MASTER_PORT = 29400
FOR_EVER = 2**31 - 1  # the largest backoffLimit there is


def job_name(run_id: str, stage: str, attempt: int = 1) -> str:
    """Deterministic, so that two coordinators can't make two Jobs of one attempt; at most 61 characters."""
    return f"{root_name(run_id)}-{stage}" + (f"-r{attempt}" if attempt > 1 else "")


def stage_job(spec: RunSpec, placement: Placement, step: Step, needs: Needs) -> Object:
    """A stage's Job, first attempt, without what only the coordinator knows (its inputs' digests)."""
    args = [*step.argv, "--spec", f"{SPEC_FOLDER}/{names.SPEC}", "--store", placement.store, "--work", WORK]
    image = spec.images[image_of(spec, step.stage)]
    template = pod_template(spec, placement, step.stage, image, args, needs)
    queued = {names.LABEL_QUEUE: placement.queue} if placement.queue and needs.gpus else {}
    job: Object = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(spec.run_id, step.stage),
            "namespace": placement.namespace,
            "labels": labels(spec.run_id, step.stage) | queued,
        },
        "spec": {
            "backoffLimit": BACKOFF_LIMIT,
            "podReplacementPolicy": "Failed",  # never two pods of one attempt
            "podFailurePolicy": {"rules": _rules()},
            "ttlSecondsAfterFinished": KEEP_SECONDS,
            "template": template,
        },
    }
    if needs.deadline_seconds:
        job["spec"]["activeDeadlineSeconds"] = needs.deadline_seconds
    if step.stage == "train" and spec.profile.cluster.nodes > 1:
        _spread(job, spec)
    return job


def coordinator_job(spec: RunSpec, placement: Placement, needs: Needs) -> Object:
    """The Job that walks the chain; restarted for ever, since it keeps no state."""
    args = ["-m", "halops.backends.kube.coordinator", "--root", SPEC_FOLDER, "--namespace", placement.namespace,
            "--store", placement.store]  # fmt: skip
    if placement.webhook:
        args += ["--webhook", placement.webhook]
    if placement.free_gpu:
        args += ["--free-gpu", placement.free_gpu]
    template = pod_template(spec, placement, names.COORDINATOR, spec.images["merge"], args, needs)
    template["spec"]["restartPolicy"] = "OnFailure"
    template["spec"]["terminationGracePeriodSeconds"] = 10
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": job_name(spec.run_id, names.COORDINATOR),
            "namespace": placement.namespace,
            "labels": labels(spec.run_id, names.COORDINATOR),
        },
        "spec": {"backoffLimit": FOR_EVER, "ttlSecondsAfterFinished": KEEP_SECONDS, "template": template},
    }


def with_attempt(job: Object, *, attempt: int, rung: int, inputs: dict[str, str], oom_killed: bool = False) -> Object:
    """A stage's Job as a certain attempt: its name, its rung, and the digests that it must find.

    Args:
        oom_killed: one before it was killed for host memory.
    """
    made = copy.deepcopy(job)
    metadata, template = made["metadata"], made["spec"]["template"]
    stage = metadata["labels"][names.LABEL_STAGE]
    metadata["name"] = job_name(metadata["labels"][names.LABEL_RUN], stage, attempt)
    marks = {names.LABEL_ATTEMPT: str(attempt), names.LABEL_RUNG: str(rung)}
    metadata["labels"] |= marks
    template["metadata"]["labels"] |= marks
    environment = {names.ENV_RUNG: str(rung), names.ENV_INPUTS: json.dumps(inputs, sort_keys=True)}
    if oom_killed:
        environment[names.ENV_OOM_KILLED] = "1"
    if made["spec"].get("completionMode") == "Indexed":
        environment[names.ENV_MASTER] = f"{metadata['name']}-0.{template['spec']['subdomain']}"
    container = template["spec"]["containers"][0]
    container["env"] += [{"name": name, "value": value} for name, value in environment.items()]
    return made


def gpus_of(job: Object) -> int:
    """How many GPUs a Job's pod asks for."""
    resources = job["spec"]["template"]["spec"]["containers"][0]["resources"]
    return int(resources["requests"].get(names.GPU_RESOURCE, 0))


def as_pod(job: Object) -> Object:
    """The Job's template as a Pod of its own: Pod Security and quotas judge only Pods."""
    template = copy.deepcopy(job["spec"]["template"])
    metadata = template["metadata"] | {"name": job["metadata"]["name"], "namespace": job["metadata"]["namespace"]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def _rules() -> list[Object]:
    """The README's exit codes: what can't mend itself fails at once; disruptions never count; a kill is looked into."""

    def fail(*codes: int) -> Object:
        codes_rule = {"containerName": names.CONTAINER, "operator": "In", "values": list(codes)}
        return {"action": "FailJob", "onExitCodes": codes_rule}

    disrupted = {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    return [fail(7, 42, 43, 44), disrupted, fail(137)]


def _spread(job: Object, spec: RunSpec) -> None:
    """Training on several nodes: one pod each, which find the first one by the headless Service's name."""
    nodes = spec.profile.cluster.nodes
    # One that dies takes the others with it, so a single fault counts once for each.
    limit = BACKOFF_LIMIT * nodes
    job["spec"] |= {
        "completionMode": "Indexed", "completions": nodes, "parallelism": nodes, "backoffLimit": limit,
    }  # fmt: skip
    pod = job["spec"]["template"]["spec"]
    pod["subdomain"] = job_name(spec.run_id, "train")
    pod["containers"][0]["env"] += [
        {"name": names.ENV_NODES, "value": str(nodes)},
        {"name": names.ENV_MASTER_PORT, "value": str(MASTER_PORT)},
    ]
