"""A run's Kubernetes objects: what KUBERNETES.md's checklists ask of them, and the shipped profiles' golden renders."""

import json
import os
from pathlib import Path

import pytest
import yaml

from halops.backends.retry import MAX_TOTAL
from halops.errors import ConfigError
from halops.manifests.jobs import as_pod, gpus_of, job_name, with_attempt
from halops.manifests.needs import stage_needs
from halops.manifests.placement import place
from halops.manifests.run import jobs_of, rebuild, render, to_yaml
from halops.names import COORDINATOR, FAST_STAGES, STAGES
from halops.profile import load_profile
from halops.runspec import BaseRef, DatasetRef, RunSpec
from halops.site import S3, Secrets, Site
from tests.kube_schemas import MINORS, validate

GOLDEN = Path(__file__).parents[3] / "k8s" / "golden"
DIGESTS = {name: f"registry.example/ops/halops-{name}@sha256:{index:064x}" for index, name in
           enumerate(("train", "merge", "convert", "serve"), start=1)}  # fmt: skip
SITE = Site(
    store="s3://ops/halops", s3=S3(endpoint_url="http://minio.ops:9000", region="us-east-1"), images=DIGESTS,
    secrets=Secrets(s3="halops-s3", hub="halops-hub"),
)  # fmt: skip


def spec_of(name, *overrides, images=DIGESTS):
    profile = load_profile(name, ["cluster.backend=kube", *overrides])
    return RunSpec(
        name=name, profile=profile, base=BaseRef(uri=profile.model.uri), images=images, llama_cpp="golden",
        dataset=DatasetRef(uri="train.jsonl", sha256="ab" * 32, size=1000), code_version="golden",
    )  # fmt: skip


def rendered(name="rtx8", *overrides, site=SITE, rows=880, **options):
    spec = spec_of(name, *overrides)
    needs = stage_needs(spec, spec.profile.model.dimensions, rows=rows, **options)
    return spec, render(spec, place(site, site.store), needs)


def containers(made):
    jobs = [made.coordinator, *made.stages.values(), *made.fast.values()]
    return [(job, job["spec"]["template"]["spec"], job["spec"]["template"]["spec"]["containers"][0]) for job in jobs]


@pytest.mark.parametrize("name", ["local", "rtx8", "a100"])
def test_golden(name):
    """`UPDATE_GOLDEN=1 pytest tests/unit/manifests` writes them anew; the diff is for a person to read."""
    text = to_yaml(rendered(name)[1].objects())
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("minor", MINORS)
@pytest.mark.parametrize(("name", "overrides"), [("local", ()), ("rtx8", ()), ("a100", ("cluster.nodes=2",))])
def test_every_kubernetes_takes_it(minor, name, overrides):
    made = rendered(name, *overrides)[1]
    jobs = [with_attempt(job, attempt=2, rung=1, inputs={}) for job in made.stages.values()]
    assert validate([*made.objects(), *jobs, *map(as_pod, jobs)], minor) == []


def test_every_stage_has_its_job_image_and_account():
    spec, made = rendered()
    assert list(made.stages) == list(STAGES)
    for stage, job in made.stages.items():
        pod = job["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == f"halops-{stage}"
        assert job["metadata"]["name"] == f"halops-{spec.run_id}-{stage}"
        image = pod["containers"][0]["image"]
        assert image == DIGESTS[{"train": "train", "convert": "convert", "verify": "convert"}.get(stage, "merge")]


def test_what_deploy_fast_needs_has_jobs_that_are_not_the_chains():
    spec, made = rendered()
    assert list(made.fast) == list(FAST_STAGES)
    for stage, job in made.fast.items():
        pod = job["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == "halops-convert"  # k8s/ makes one for each stage of the chain
        assert pod["containers"][0]["image"] == DIGESTS["convert"]
        assert pod["containers"][0]["args"][2] == stage
        assert job["metadata"]["name"] == f"halops-{spec.run_id}-{stage}"
        assert job not in made.objects()
    assert set(jobs_of(made.root["data"]["jobs.yaml"])) == {*STAGES, COORDINATOR}


def test_what_only_the_submitter_has_is_mirrored_by_it():
    assert "base" not in rendered("local")[1].stages


def test_pods_are_restricted():
    for job, pod, container in containers(rendered()[1]):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        is_coordinator = job["metadata"]["name"].endswith(COORDINATOR)
        assert pod["automountServiceAccountToken"] is is_coordinator
        assert {next(iter(set(volume) - {"name"})) for volume in pod["volumes"]} <= {"configMap", "emptyDir"}


def test_resources_are_requested_and_limited():
    for _, pod, container in containers(rendered()[1]):
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert {"cpu", "memory", "ephemeral-storage"} <= set(requests)
        assert limits["memory"] == requests["memory"]
        assert "cpu" not in limits
        sizes = [volume["emptyDir"].get("sizeLimit") for volume in pod["volumes"] if "emptyDir" in volume]
        assert all(sizes)


def test_only_training_has_the_gpu_and_it_is_chosen_by_memory():
    _, made = rendered("a100")
    for stage, job in made.stages.items():
        pod = job["spec"]["template"]["spec"]
        limits = pod["containers"][0]["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) is (stage == "train")
    pod = made.stages["train"]["spec"]["template"]["spec"]
    rule = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]
    assert rule["matchExpressions"] == [{"key": "nvidia.com/gpu.memory", "operator": "Gt", "values": ["34816"]}]
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert "runtimeClassName" not in pod
    assert json.dumps(made.objects()).count("A100") == 0


def test_exit_codes_decide_what_a_job_does():
    rules = rendered()[1].stages["train"]["spec"]["podFailurePolicy"]["rules"]
    assert [rule["action"] for rule in rules] == ["FailJob", "Ignore", "FailJob"]
    assert rules[0]["onExitCodes"]["values"] == [7, 42, 43, 44]
    assert rules[1]["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert rules[2]["onExitCodes"]["values"] == [137]


def test_secrets_are_named_and_never_told():
    text = to_yaml(rendered()[1].objects())
    assert "secretKeyRef" in text
    for _, _, container in containers(rendered()[1]):
        literal = {entry["name"] for entry in container["env"] if "value" in entry}
        assert not {name for name in literal if "SECRET" in name or "ACCESS_KEY" in name or "TOKEN" in name}
    tokens = {
        stage: [entry["name"] for entry in job["spec"]["template"]["spec"]["containers"][0]["env"]]
        for stage, job in rendered()[1].stages.items()
    }
    assert [stage for stage, found in tokens.items() if "HF_TOKEN" in found] == ["base"]


def test_a_server_that_makes_room_is_the_coordinators_business():
    spec = spec_of("rtx8")
    needs = stage_needs(spec, spec.profile.model.dimensions, rows=880)
    made = render(spec, place(SITE, SITE.store, free_gpu=True), needs)
    args = made.coordinator["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[-2:] == ["--free-gpu", "halops-serving/ops"]
    assert "--free-gpu" not in to_yaml(rendered()[1].objects())
    assert [stage for stage, job in made.stages.items() if gpus_of(job)] == ["train"]


def test_the_queue_is_a_label_of_the_gpu_stage_alone():
    _, made = rendered("rtx8", site=SITE.model_copy(update={"queue": "gpu"}))
    queued = [stage for stage, job in made.stages.items() if "kueue.x-k8s.io/queue-name" in job["metadata"]["labels"]]
    assert queued == ["train"]
    assert "suspend" not in to_yaml(made.objects())


def test_an_attempt_carries_its_rung_and_its_inputs():
    spec, made = rendered()
    job = with_attempt(made.stages["train"], attempt=3, rung=1, inputs={"data": "d" * 64})
    assert job["metadata"]["name"] == job_name(spec.run_id, "train", 3)
    assert job["metadata"]["name"].endswith("-train-r3")
    env = {entry["name"]: entry.get("value") for entry in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["HALOPS_OOM_RUNG"] == "1"
    assert "HALOPS_OOM_KILLED" not in env
    killed = with_attempt(made.stages["train"], attempt=3, rung=1, inputs={}, oom_killed=True)
    entries = killed["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "HALOPS_OOM_KILLED", "value": "1"} in entries
    assert json.loads(env["HALOPS_INPUTS"]) == {"data": "d" * 64}
    assert made.stages["train"]["metadata"]["name"].endswith("-train")  # the original is untouched


def test_names_fit_even_with_the_longest_run_name():
    longest = f"{'x' * 30}-{'0' * 10}"
    jobs = [job_name(longest, COORDINATOR), *(job_name(longest, stage, MAX_TOTAL) for stage in STAGES)]
    assert max(map(len, jobs)) <= 63  # a Job's name is a label of its pods
    assert len(f"{job_name(longest, 'train', MAX_TOTAL)}-99") <= 63  # host name of a node's pod


def test_several_nodes_are_an_indexed_job_behind_a_headless_service():
    spec, made = rendered("a100", "cluster.nodes=2")
    job = made.stages["train"]
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 2, 2)
    service, policy = made.network
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    assert policy["spec"]["ingress"][0]["from"][0]["podSelector"]["matchLabels"]["halops.dev/run-id"] == spec.run_id
    env = with_attempt(job, attempt=2, rung=0, inputs={})["spec"]["template"]["spec"]["containers"][0]["env"]
    master = next(entry["value"] for entry in env if entry["name"] == "HALOPS_MASTER")
    assert master == f"halops-{spec.run_id}-train-r2-0.halops-{spec.run_id}-train"


def test_a_profile_says_what_the_estimate_would_not():
    _, made = rendered("rtx8", "cluster.resources.merge.memory=7Gi", "cluster.runtime_class=nvidia",
                       "cluster.node_selector.pool=ml")  # fmt: skip
    merge, train = (made.stages[stage]["spec"]["template"]["spec"] for stage in ("merge", "train"))
    assert merge["containers"][0]["resources"]["limits"]["memory"] == "7Gi"
    assert train["runtimeClassName"] == "nvidia"
    assert "runtimeClassName" not in merge
    assert merge["nodeSelector"] == {"pool": "ml"}


def test_a_price_limit_is_a_deadline_of_the_gpu_stage():
    _, made = rendered("rtx8", max_cost=1.0, price=4.0)
    assert made.stages["train"]["spec"]["activeDeadlineSeconds"] == 900
    assert made.stages["merge"]["spec"]["activeDeadlineSeconds"] == 7200


def test_a_root_gives_back_what_it_was_made_with():
    spec, made = rendered("a100", "cluster.nodes=2")
    assert rebuild(spec, made.root) == made.model_copy(update={"fast": {}})
    assert set(jobs_of(made.root["data"]["jobs.yaml"])) == {*STAGES, COORDINATOR}
    assert RunSpec.model_validate_json(made.root["data"]["run.json"]) == spec


def test_a_template_as_a_pod_is_what_pod_security_judges():
    pod = as_pod(rendered()[1].stages["merge"])
    assert pod["kind"] == "Pod"
    assert pod["spec"]["containers"][0]["image"] == DIGESTS["merge"]


def test_a_folder_is_no_store_for_pods():
    with pytest.raises(ConfigError, match="one machine"):
        place(Site(), "file:///srv/halops")


def test_images_that_are_not_locked_are_all_named():
    spec = spec_of("rtx8", images={"merge": "registry.example/halops-merge:1"})
    with pytest.raises(ConfigError) as caught:
        render(spec, place(SITE, SITE.store), stage_needs(spec, spec.profile.model.dimensions))
    assert len(caught.value.problems) == 3
    assert "halops images" in str(caught.value)


def test_yaml_is_what_it_says():
    _, made = rendered()
    assert list(yaml.safe_load_all(to_yaml(made.objects()))) == made.objects()
