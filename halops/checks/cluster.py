"""The cluster: reachable, prepared, allowed, and large enough. Decisions are pure; `examine` asks the view."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from halops.checks import way
from halops.checks.base import Check, fail, ok, skip, warn
from halops.checks.nodes import fit, read_nodes
from halops.checks.quota import quota
from halops.checks.room import cpu_nodes, gpu_nodes
from halops.checks.view import ClusterView, Object
from halops.errors import ConfigError, HalopsError
from halops.manifests.needs import Needs, profile_needs
from halops.names import COORDINATOR, PREFIX, STAGES
from halops.profile import Profile
from halops.sections import Dimensions
from halops.site import Site
from halops.store.base import Store

OLDEST = (1, 31)  # podFailurePolicy is GA
APPLY = "kubectl apply -k k8s/overlays/OVERLAY, by an admin of the cluster"
IMAGES = ("train", "merge", "convert")
S3_KEYS = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"})
HUB_KEYS = frozenset({"HF_TOKEN"})
LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")

# What `submit`, `status`, `logs`, `cancel` and `delete` do in the namespace.
RIGHTS: tuple[tuple[str, str], ...] = (
    ("get", "configmaps"), ("create", "configmaps"), ("patch", "configmaps"), ("delete", "configmaps"),
    ("get", "jobs"), ("list", "jobs"), ("create", "jobs"), ("delete", "jobs"),
    ("list", "pods"), ("create", "pods"), ("get", "pods/log"), ("list", "events"),
    ("get", "roles"), ("create", "roles"), ("get", "rolebindings"), ("create", "rolebindings"),
)  # fmt: skip
SEVERAL_NODES = (("create", "services"), ("create", "networkpolicies"))


def examine(view: ClusterView, profile: Profile, site: Site, store: Store | None = None) -> Iterator[Check]:
    """Every check of a cluster in turn; only the first if it can't be reached.

    Args:
        store: where it is known to work with our own credentials: then those of the pods are tried, too.
    """
    try:
        yield version(view.version())
    except HalopsError as error:
        where = f" ({error.where})" if error.where else ""
        yield fail("cluster", f"{error.what}{where}", error.remedy or "check the kubeconfig")
        return
    for look in (_prepared(view, profile, site, store), _sized(view, profile, site)):
        try:
            yield from look
        except HalopsError as error:
            yield fail("cluster", error.what, error.remedy or "try again")


def _prepared(view: ClusterView, profile: Profile, site: Site, store: Store | None) -> Iterator[Check]:
    yield namespace(view.namespace(), site.namespace, can_see=view.can_i("get", "namespaces"))
    wanted = RIGHTS + (SEVERAL_NODES if profile.cluster.nodes > 1 else ())
    yield rights([right for right in wanted if not view.can_i(*right)], site.namespace)
    yield accounts(view.service_accounts())
    if (store.uri if store else site.store).startswith("s3://"):
        yield way.look(view, site)
    readable = view.can_i("get", "secrets")
    found = secret("S3 Secret", site.secrets.s3, S3_KEYS, readable, view.secret_keys)
    yield opens(found, view, site.secrets.s3, store) if found.status == "ok" and store and site.secrets.s3 else found
    if profile.model.uri.startswith("hf://") and site.secrets.hub:
        yield secret("hub Secret", site.secrets.hub, HUB_KEYS, readable, view.secret_keys)


def _sized(view: ClusterView, profile: Profile, site: Site) -> Iterator[Check]:
    dims = profile.model.dimensions
    if dims is None:
        yield skip("nodes", "the need isn't known without model.dimensions in the profile")
        return
    needs = pod_needs(profile, dims)
    yield quota(view.quota(), needs)
    raw = view.nodes()
    if raw is None:
        yield skip("nodes", "we may not list nodes; k8s/components/node-reader allows it")
        return
    pods = view.pods_on_nodes()
    nodes = read_nodes(raw, pods)
    rows = fit(needs, profile.cluster, nodes, pods_known=pods is not None)
    yield from gpu_nodes(rows, nodes, needs, profile.cluster)
    yield cpu_nodes(rows, len(nodes))


def pod_needs(profile: Profile, dims: Dimensions) -> dict[str, Needs]:
    """Needs of the stages that run as pods: a base model of this machine's own is mirrored from here."""
    needs = profile_needs(profile, dims)
    if not profile.model.uri.startswith(("hf://", "s3://")):
        needs.pop("base", None)
    return needs


def version(text: str) -> Check:
    """Whether the API server is new enough."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    if not found:
        return warn("cluster", f"reached, of unknown version {text!r}", "Kubernetes 1.31 or newer is needed")
    if (int(found[1]), int(found[2])) < OLDEST:
        return fail(
            "cluster", f"Kubernetes {text}", "1.31 or newer is needed: older ones don't know podFailurePolicy well"
        )
    return ok("cluster", f"Kubernetes {text}")


def namespace(found: Object | None, name: str, *, can_see: bool = True) -> Check:
    """Whether the namespace is there, and holds pods to the `restricted` standard."""
    if found is None:
        if not can_see:
            return skip("namespace", f"we may not look at {name}")
        return fail("namespace", f"there is no namespace {name}", APPLY)
    if found.get("metadata", {}).get("deletionTimestamp"):
        return fail("namespace", f"{name} is being deleted", f"wait until it is gone, then {APPLY}")
    labels = found.get("metadata", {}).get("labels") or {}
    level = labels.get("pod-security.kubernetes.io/enforce", "")
    if level != "restricted":
        said = f"{name} enforces {level or 'no Pod Security standard'}"
        return warn("namespace", said, f"label it pod-security.kubernetes.io/enforce=restricted: {APPLY}")
    return ok("namespace", f"{name}, under Pod Security restricted")


def rights(missing: Sequence[tuple[str, str]], where: str) -> Check:
    """Whether we may do all that a run needs.

    Args:
        missing: what we may not.
        where: the namespace.
    """
    if missing:
        said = ", ".join(f"{verb} {resource}" for verb, resource in missing)
        remedy = "have an admin put you into the group halops-submitters, or bind the ClusterRole halops-submitter"
        return fail("rights", f"not allowed in {where}: {said}", remedy)
    return ok("rights", f"all that submit, status, logs, cancel and delete do in {where}")


def accounts(found: set[str] | None) -> Check:
    """Whether each stage's ServiceAccount is there."""
    if found is None:
        return skip("accounts", "we may not list service accounts")
    missing = [name for name in (f"{PREFIX}-{stage}" for stage in (*STAGES, COORDINATOR)) if name not in found]
    if missing:
        return fail("accounts", f"missing: {', '.join(missing)}", APPLY)
    return ok("accounts", "a service account for each stage")


def secret(
    title: str, name: str | None, needed: frozenset[str], readable: bool, keys: Callable[[str], set[str] | None]
) -> Check:
    """Whether a Secret is there with its keys. Nobody needs the right to read it: then it can't be told."""
    if name is None:
        return skip(title, "none is named in halops.yaml: pods use the cloud's workload identity")
    if not readable:
        return skip(title, f"{name}: we may not read Secrets, and needn't; `halops status` tells if it is missing")
    found = keys(name)
    if found is None:
        with_keys = f"with {' and '.join(sorted(needed))} in it"
        remedy = f"kubectl create secret generic {name} --from-env-file=FILE, {with_keys}"
        return fail(title, f"there is no Secret {name}", remedy)
    if missing := sorted(needed - found):
        return fail(title, f"{name} has no {' and no '.join(missing)}", f"kubectl edit secret {name}")
    return ok(title, f"{name} has its keys")


def opens(found: Check, view: ClusterView, name: str, store: Store) -> Check:
    """Whether the pods' keys open the store, tried from here."""

    def use(values: dict[str, str]) -> None:
        if padded := sorted(key for key in S3_KEYS if values.get(key, "") != values.get(key, "").strip()):
            raise ConfigError(f"{' and '.join(padded)} with white space around it, such as the end of a file's line")
        store.check(values)

    try:
        view.try_secret(name, use)
    except HalopsError as error:
        remedy = f"kubectl delete secret {name}; kubectl create secret generic {name} --from-env-file=FILE"
        return fail(found.name, f"{name} doesn't open the store: {error.what}", remedy)
    return ok(found.name, f"{found.detail}, which open the store")


def images(locked: Mapping[str, str]) -> Check:
    """Whether every image is set, by digest."""
    wrong = [f"{name} isn't set" for name in IMAGES if not locked.get(name)]
    wrong += [f"{name} has no digest" for name in IMAGES if locked.get(name) and "@sha256:" not in locked[name]]
    if wrong:
        return fail("images", "; ".join(wrong), "`halops images --push` builds, pushes and locks them")
    return ok("images", f"{', '.join(IMAGES)} by digest")


def reachable_store(uri: str, endpoint: str | None) -> Check:
    """Whether pods can reach the store at all."""
    if not uri.startswith("s3://"):
        return fail(
            "store of pods", f"{uri} is a folder of this machine", "set `store: s3://BUCKET/PREFIX` in halops.yaml"
        )
    host = urlsplit(endpoint).hostname if endpoint else None
    if host in LOOPBACK:
        return fail(
            "store of pods",
            f"{endpoint} is this machine's own address",
            "give s3.endpoint_url an address that pods reach",
        )
    return ok("store of pods", f"{uri} at {host or 'AWS'}")
