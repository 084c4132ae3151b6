"""Every name that two parts of HALops must agree on: stages, states, paths, environment."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final, Literal

# Stages, in the order in which they run. A stage's name is also its path segment in the store.
Stage = Literal["base", "data", "train", "merge", "convert", "verify"]
STAGES: Final[tuple[Stage, ...]] = ("base", "data", "train", "merge", "convert", "verify")
# Beside the chain, made when somebody wants to serve a run before it is merged; see `halops.plan.fast_steps`.
FastStage = Literal["base-gguf", "adapter-gguf"]
FAST_STAGES: Final[tuple[FastStage, ...]] = ("base-gguf", "adapter-gguf")
LOGGED: Final[tuple[str, ...]] = (*FAST_STAGES, *STAGES)  # whatever has a log; the chain's last one comes last

# States of a run and of a stage, as `status --json` prints them.
State = Literal["pending", "running", "succeeded", "failed", "cancelled"]
OVER: Final[tuple[State, ...]] = ("succeeded", "failed", "cancelled")

# Path segments in a store.
RUNS: Final = "runs"
BASES: Final = "bases"
DATASETS: Final = "datasets"
ATTEMPTS: Final = "attempts"
CHECKPOINTS: Final = "checkpoints"
MANIFEST: Final = "manifest.json"
SPEC: Final = "run.json"
STATUS: Final = "status.json"
PROGRESS: Final = "progress.jsonl"
TENSORBOARD: Final = "tensorboard"
CANCELLED: Final = "cancelled.json"
SUBMITTED: Final = "submitted.json"
JOBS: Final = "jobs.yaml"  # in a run's root ConfigMap, beside run.json

# Of stages and servers: how often a thread of libgomp looks for work before it sleeps, some microseconds' worth. On two
# cores one that sleeps at once (OMP_WAIT_POLICY=passive) serves a small model at 0.35 to 0.45 of the speed, and trains
# at 0.75; by default it stays awake for milliseconds, and starves what shares its cores.
THREADS: Final = {"GOMP_SPINCOUNT": "10000"}

# In a cluster. Labels and annotations share one prefix; an object's name begins with `halops-RUN`.
COORDINATOR: Final = "coordinator"  # the value of LABEL_STAGE that is no stage
CONTAINER: Final = "stage"  # the one container of every pod
PREFIX: Final = "halops"
LABEL_RUN: Final = "halops.dev/run-id"
LABEL_STAGE: Final = "halops.dev/stage"
LABEL_ATTEMPT: Final = "halops.dev/attempt"
LABEL_RUNG: Final = "halops.dev/rung"
ANNOTATION_SPEC: Final = "halops.dev/spec-sha256"
ANNOTATION_JOBS: Final = "halops.dev/jobs-sha256"
ANNOTATION_STORE: Final = "halops.dev/store"
ANNOTATION_STATE: Final = "halops.dev/state"  # a State, as the coordinator or `cancel` left it
ANNOTATION_ATTEMPTS: Final = "halops.dev/attempts"  # JSON: stage -> its attempts
ANNOTATION_DIAGNOSIS: Final = "halops.dev/diagnosis"  # JSON: what holds the run up, or ended it
ANNOTATION_FREED: Final = "halops.dev/freed"  # JSON: the server that was scaled to zero for this run
LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
GPU_RESOURCE: Final = "nvidia.com/gpu"
GPU_MEMORY_LABEL: Final = "nvidia.com/gpu.memory"  # MiB, set by GPU feature discovery

# Environment of a stage process.
ENV_ATTEMPT: Final = "HALOPS_ATTEMPT"  # unique id of this attempt; a pod's uid in a cluster
ENV_IMAGE: Final = "HALOPS_IMAGE"  # image digest, recorded as the producer
ENV_INPUTS: Final = "HALOPS_INPUTS"  # JSON, input -> digest: what this attempt must see, or else exit 43
ENV_RUNG: Final = "HALOPS_OOM_RUNG"  # how many rungs down the out-of-memory ladder
ENV_OOM_KILLED: Final = "HALOPS_OOM_KILLED"  # 1: host memory ran out in an attempt before, so no rung moves more there
ENV_NODES: Final = "HALOPS_NODES"  # pods that train together
ENV_MASTER: Final = "HALOPS_MASTER"  # host name of the first of them
ENV_MASTER_PORT: Final = "HALOPS_MASTER_PORT"
ENV_NODE: Final = "JOB_COMPLETION_INDEX"  # which of them this is; set by the Job controller
ENV_NPROC: Final = "HALOPS_NPROC"  # training processes of a node, against its count of GPUs; for tests on a CPU
ENV_TEST_FAULT: Final = "HALOPS_TEST_FAULT"  # a fault to plant; see halops.train.faults. Only tests set it
ENV_STORE: Final = "HALOPS_STORE"  # store URI, against the site's
ENV_WORK: Final = "HALOPS_WORK"  # scratch folder
ENV_CACHE: Final = "HALOPS_CACHE"  # user cache folder
ENV_LLAMA_CPP: Final = "HALOPS_LLAMA_CPP"  # a llama.cpp that is built already

RUN_NAME: Final = re.compile(r"[a-z]([-a-z0-9]{0,28}[a-z0-9])?")  # a DNS label, 30 at most
RUN_ID: Final = re.compile(r"[a-z]([-a-z0-9]{0,28}[a-z0-9])?-[0-9a-f]{10}")

DEFAULT_DATA: Final = "data/final/train.jsonl"
SITE_FILE: Final = "halops.yaml"
STATE_FOLDER: Final = ".halops"


def root_name(run_id: str) -> str:
    """The ConfigMap that owns everything of a run in a cluster; also the beginning of all its objects' names."""
    return f"{PREFIX}-{run_id}"


def cache_folder() -> Path:
    """The user's cache folder for builds and downloads (HALOPS_CACHE, XDG_CACHE_HOME, ~/.cache)."""
    if given := os.environ.get(ENV_CACHE):
        return Path(given)
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "halops"
