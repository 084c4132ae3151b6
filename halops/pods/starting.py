"""Why a container doesn't start: its image, what it refers to, its volumes, the runtime."""

from __future__ import annotations

import re
from collections.abc import Sequence

from halops.diagnosis import Category, Diagnosis, Level, Words
from halops.pods.fields import Object, event_text, name_of, newest, say, stage_of, statuses

_E, _W = Level.ERROR, Level.WARNING
_PUSH = "`halops images --push` builds, pushes and locks the images"

# Parts of a pull's error message, in lower case -> what they mean. The first row that fits counts.
PULL: tuple[tuple[tuple[str, ...], Words], ...] = (
    (
        ("no match for platform", "exec format"),
        Words(_E, Category.IMAGE, "its image is for another kind of processor",
              f"build it on, or for, the nodes' kind: {_PUSH}"),
    ),
    (
        ("toomanyrequests", "429"),
        Words(_W, Category.IMAGE, "the registry limits how often images are pulled",
              "it tries again; a registry of your own, or pulling with an account, has higher limits"),
    ),
    (
        ("unauthorized", "authorization failed", "access denied", "denied:", "forbidden", "failed to authorize"),
        Words(_E, Category.IMAGE, "the registry doesn't let the nodes read its image, or doesn't have it",
              "give the stage's ServiceAccount an imagePullSecret, or make the image readable; was what `images` in "
              "halops.yaml says ever pushed?"),
    ),
    (
        ("not found", "manifest unknown", "name unknown"),
        Words(_E, Category.IMAGE, "the registry doesn't have its image", _PUSH),
    ),
    (
        ("http response to https client",),
        Words(_E, Category.IMAGE, "the registry speaks plain HTTP, and the nodes ask by HTTPS",
              "give the registry a certificate, or allow it in each node's container runtime"),
    ),
    (
        ("x509", "certificate"),
        Words(_E, Category.IMAGE, "the nodes don't trust the registry's certificate",
              "install its authority on the nodes, in the container runtime's certs.d"),
    ),
    (
        ("no space left on device",),
        Words(_E, Category.DISK_FULL, "the node's disk is too full for its image",
              "free some space on the node: `kubectl describe node` shows what there is"),
    ),
    (
        ("signature validation failed",),
        Words(_E, Category.IMAGE, "its image's signature isn't accepted", "sign it as the cluster's policy asks"),
    ),
    (
        ("no such host", "i/o timeout", "timeout", "connection refused", "dial tcp", "deadline exceeded", "unavailable",
         "connection reset", "eof"),
        Words(_W, Category.IMAGE, "the nodes can't reach the registry",
              "it tries again; check the registry's address in halops.yaml, and the nodes' way to it"),
    ),
)  # fmt: skip
_PULL_OTHER = Words(_E, Category.IMAGE, "its image can't be pulled", "the detail has the runtime's words")
_BAD_NAME = Words(_E, Category.IMAGE, "its image's name isn't one", f"correct `images` in halops.yaml; {_PUSH}")
_NEVER = Words(
    _E, Category.IMAGE, "its image isn't on the node, and may not be pulled", "import it on every node of the pool"
)

_NO_SECRET = Words(
    _E, Category.SETUP, "the Secret {name} isn't there",
    "kubectl -n {namespace} create secret generic {name} --from-env-file=FILE, with {keys} in the file",
)  # fmt: skip
_NO_KEY = Words(
    _E, Category.SETUP, "the {kind} {name} has no key {key}",
    "add it: `kubectl -n {namespace} edit {lower} {name}`; the pod starts by itself then",
)  # fmt: skip
_NO_CONFIGMAP = Words(
    _E, Category.SETUP, "the ConfigMap {name} isn't there", "the run was deleted, in part at least: submit it again"
)
_AS_ROOT = Words(
    _E, Category.IMAGE, "its image would run as root, which is forbidden here", f"only HALops' own images do: {_PUSH}"
)
_CACHE = Words(_W, Category.NODE, "its node can't reach the API server at the moment", "it tries again by itself")
_CONFIG_OTHER = Words(
    _E, Category.SETUP, "its container can't be set up as asked", "the detail has the kubelet's words"
)
_CREATE = Words(
    _W, Category.NODE, "the node's container runtime can't make its container",
    "it tries again; if it stays so, look at the node: `kubectl describe node {node}`",
)  # fmt: skip
_NO_PROGRAM = Words(
    _E, Category.IMAGE, "its image lacks the program that is started", f"it isn't one of HALops' images: {_PUSH}"
)
_SANDBOX = Words(
    _W, Category.NODE, "its node can't set up the pod's network", "it tries again; look at the node's CNI plugin"
)
_MOUNT = Words(_W, Category.SETUP, "a volume can't be mounted", "it tries again; the detail names the volume")
_RESTARTING = Words(_W, Category.CRASH, "its container ends again and again", "`kubectl logs -p {pod}` has the reason")

_SECRET = re.compile(r'secrets? "([^"]+)" not found')
_CONFIGMAP = re.compile(r'configmaps? "([^"]+)" not found')
_KEY = re.compile(r"couldn't find key (\S+) in (Secret|ConfigMap) ([^/\s]+)/(\S+)")
S3_KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
_PULLS = ("ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "SignatureValidationFailed", "ImageInspectError")
BEGINNING = ("ContainerCreating", "PodInitializing", "")


def explain_waiting(pod: Object, events: Sequence[Object]) -> Diagnosis | None:
    """Why a container of this pod waits; None if it is only about to start.

    Args:
        events: the pod's, sorted.
    """
    for status in statuses(pod):
        waiting = (status.get("state") or {}).get("waiting")
        if not waiting:
            continue
        if waiting.get("reason", "") in BEGINNING:
            return _from_events(pod, events)
        return explain_reason(pod, str(waiting["reason"]), str(waiting.get("message", "")))
    return None


def explain_reason(pod: Object, reason: str, message: str) -> Diagnosis:
    """A container's waiting (or start error's) reason and message in words."""
    words, values = _choose(pod, reason, message)
    return say(words, message or reason, stage_of(pod), **values)


def _choose(pod: Object, reason: str, message: str) -> tuple[Words, dict[str, str]]:
    if reason in _PULLS:
        return pull_words(message), {}
    if reason == "InvalidImageName":
        return _BAD_NAME, {}
    if reason == "ErrImageNeverPull":
        return _NEVER, {}
    if reason == "CreateContainerConfigError":
        return _config(pod, message)
    if reason == "CrashLoopBackOff":
        return _RESTARTING, {"pod": name_of(pod)}
    lower = message.lower()
    if "exec format error" in lower:
        return PULL[0][1], {}
    if "executable file not found" in lower or "no such file or directory" in lower:
        return _NO_PROGRAM, {}
    return _CREATE, {"node": str(pod.get("spec", {}).get("nodeName", "NODE"))}


def pull_words(message: str) -> Words:
    """The words for a failed pull."""
    lower = message.lower()
    return next((words for parts, words in PULL if any(part in lower for part in parts)), _PULL_OTHER)


def _config(pod: Object, message: str) -> tuple[Words, dict[str, str]]:
    namespace = str(pod.get("metadata", {}).get("namespace", "NAMESPACE"))
    if found := _SECRET.search(message):
        keys = "HF_TOKEN" if _is_hub_secret(pod, found[1]) else S3_KEYS
        return _NO_SECRET, {"name": found[1], "namespace": namespace, "keys": keys}
    if found := _CONFIGMAP.search(message):
        return _NO_CONFIGMAP, {"name": found[1]}
    if found := _KEY.search(message):
        lower = found[2].lower()
        return _NO_KEY, {"key": found[1], "kind": found[2], "lower": lower, "namespace": namespace, "name": found[4]}
    if "has runAsNonRoot" in message:
        return _AS_ROOT, {}
    return (_CACHE if "timed out" in message else _CONFIG_OTHER), {}


def _is_hub_secret(pod: Object, name: str) -> bool:
    """Whether only the hub's token is read from that Secret."""
    containers = pod.get("spec", {}).get("containers") or []
    sources = [(item.get("name"), (item.get("valueFrom") or {}).get("secretKeyRef") or {})
               for container in containers for item in container.get("env") or []]  # fmt: skip
    return {variable for variable, source in sources if source.get("name") == name} == {"HF_TOKEN"}


def _from_events(pod: Object, events: Sequence[Object]) -> Diagnosis | None:
    """What holds up a pod whose containers only say that they are being made."""
    trouble = newest(events, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
    last = newest(
        events, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "Pulling", "Created", "Started"
    )
    if trouble is None or last is not trouble:
        return None
    text = event_text(trouble)
    if trouble.get("reason") == "FailedCreatePodSandBox":
        return say(_SANDBOX, text, stage_of(pod))
    if _SECRET.search(text) or _CONFIGMAP.search(text):
        words, values = _config(pod, text)
        return say(words, text, stage_of(pod), **values)
    return say(_MOUNT, text, stage_of(pod))
