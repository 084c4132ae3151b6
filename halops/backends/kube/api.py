"""The few verbs of the Kubernetes API that HALops uses, on plain dicts, with patience for a server that restarts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from halops.backends.kube.connection import CONNECT_SECONDS, READ_SECONDS, Connection
from halops.backends.kube.faults import TRANSIENT_STATUS, Conflict, refused, unreachable
from halops.errors import NotFoundError

Object = dict[str, Any]

GROUPS = {
    "v1": ("configmaps", "pods", "services", "secrets", "events", "serviceaccounts", "resourcequotas",
           "nodes", "namespaces"),
    "apps/v1": ("deployments",),
    "batch/v1": ("jobs",),
    "rbac.authorization.k8s.io/v1": ("roles", "rolebindings"),
    "networking.k8s.io/v1": ("networkpolicies",),
    "kueue.x-k8s.io/v1beta2": ("workloads",),
    "authorization.k8s.io/v1": ("selfsubjectaccessreviews",),
}  # fmt: skip
GROUP_OF = {resource: group for group, resources in GROUPS.items() for resource in resources}
UNNAMESPACED = frozenset({"nodes", "namespaces", "selfsubjectaccessreviews"})
IRREGULAR = {"NetworkPolicy": "networkpolicies"}
CLI_PATIENCE = 30.0  # seconds that a person waits for a server that is down
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0


class KubeApi:
    """One namespace of one cluster.

    Args:
        patience: seconds for which transient faults are tried again before they are raised.

    All methods raise ClusterUnavailable when that is over, ConfigError when the server refuses, and
    NotFoundError or Conflict where they say so.
    """

    def __init__(self, connection: Connection, namespace: str, patience: float = CLI_PATIENCE) -> None:
        self._connection, self.namespace, self._patience = connection, namespace, patience

    @property
    def server(self) -> str:
        """The API server's address."""
        return self._connection.server

    def within(self, namespace: str) -> KubeApi:
        """The same cluster, another namespace."""
        return KubeApi(self._connection, namespace, self._patience)

    def get(self, resource: str, name: str) -> Object | None:
        """One object, or None."""
        try:
            return self.request("GET", self._path(resource, name), what=f"get {resource} {name}")
        except NotFoundError:
            return None

    def list(self, resource: str, labels: dict[str, str] | None = None, fields: str | None = None) -> list[Object]:
        """All objects with these labels; none if the kind isn't installed."""
        query = {"labelSelector": ",".join(f"{key}={value}" for key, value in (labels or {}).items())}
        if fields:
            query["fieldSelector"] = fields
        try:
            answer = self.request("GET", self._path(resource), query=query, what=f"list {resource}")
        except NotFoundError:
            return []
        items: list[Object] = answer.get("items") or []
        return items

    def create(self, manifest: Object, *, dry_run: bool = False) -> Object | None:
        """Create an object; None if one of that name is there already. A dry run is judged by all admission."""
        resource = plural(manifest["kind"])
        query = {"dryRun": "All", "fieldValidation": "Strict"} if dry_run else {"fieldValidation": "Strict"}
        what = f"create {manifest['kind']} {manifest['metadata']['name']}"
        try:
            return self.request("POST", self._path(resource), query=query, body=manifest, what=what)
        except Conflict:
            return None

    def annotate(self, resource: str, name: str, values: dict[str, str | None], version: str | None = None) -> Object:
        """Set annotations; None removes one. With `version` (resourceVersion), Conflict if it changed since."""
        metadata: Object = {"annotations": values} | ({"resourceVersion": version} if version else {})
        return self.request(
            "PATCH", self._path(resource, name), body={"metadata": metadata}, what=f"annotate {resource} {name}"
        )

    def replicas(self, deployment: str) -> int | None:
        """How many replicas a Deployment is asked to have; None if there is no such Deployment."""
        path = f"{self._path('deployments', deployment)}/scale"
        try:
            found = self.request("GET", path, what=f"get the scale of {deployment}")
        except NotFoundError:
            return None
        return int(found["spec"].get("replicas", 0))

    def scale(self, deployment: str, replicas: int) -> None:
        """Ask for that many replicas. Raises NotFoundError."""
        path = f"{self._path('deployments', deployment)}/scale"
        self.request("PATCH", path, body={"spec": {"replicas": replicas}}, what=f"scale {deployment}")

    def delete(self, resource: str, name: str, uid: str | None = None) -> bool:
        """Delete an object and, in the background, what it owns. False if it was gone, or isn't that uid's."""
        body: Object = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
        try:
            self.request("DELETE", self._path(resource, name), body=body, what=f"delete {resource} {name}")
        except (NotFoundError, Conflict):
            return False
        return True

    def can_i(self, verb: str, resource: str, name: str | None = None, subresource: str | None = None) -> bool:
        """Whether we may, by the server's own judgement."""
        group = GROUP_OF[resource].rpartition("/")[0]
        attributes = {"verb": verb, "resource": resource, "group": group, "namespace": self.namespace}
        attributes |= {"name": name} if name else {}
        attributes |= {"subresource": subresource} if subresource else {}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                  "spec": {"resourceAttributes": attributes}}  # fmt: skip
        answer = self.request("POST", self._path("selfsubjectaccessreviews"), body=review, what="ask for our rights")
        return bool(answer["status"]["allowed"])

    def log(self, pod: str, *, follow: bool = False) -> Iterator[str]:
        """Lines of a pod's log, as they come. Nothing while its container hasn't started."""
        path = f"{self._path('pods', pod)}/log?{urlencode({'follow': str(follow).lower()})}"
        response = self._send("GET", path, None, stream=follow)
        rest = b""
        try:
            if response.status >= 400:
                return
            for chunk in response.stream(1 << 16) if follow else [response.data]:
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
        except self._broken():
            pass  # the server went away; who follows asks again
        finally:
            response.release_conn()
        if rest:
            yield rest.decode(errors="replace")

    def request(
        self, method: str, path: str, *, query: dict[str, str] | None = None, body: Object | None = None, what: str
    ) -> Object:
        """One call, repeated while faults are transient; its answer as JSON."""
        path += f"?{urlencode({key: value for key, value in query.items() if value})}" if query else ""
        began, pause = time.monotonic(), FIRST_PAUSE
        while True:
            try:
                response = self._send(method, path, body)
            except self._broken() as error:
                fault: Exception = unreachable(self.server, str(error))
            else:
                if response.status < 400:
                    answer: Object = json.loads(response.data or b"{}")
                    return answer
                fault = refused(response.status, response.data, what)
                if response.status not in TRANSIENT_STATUS:
                    raise fault
            if time.monotonic() - began + pause > self._patience:
                raise fault
            time.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _send(self, method: str, path: str, body: Object | None, stream: bool = False) -> Any:
        from urllib3 import Timeout

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = self._connection.headers() | {"Accept": "application/json, */*", "Content-Type": kind}
        return self._connection.pool.request(
            method, self.server + path, body=json.dumps(body) if body else None, headers=headers, retries=False,
            timeout=Timeout(connect=CONNECT_SECONDS, read=None if stream else READ_SECONDS), preload_content=not stream,
        )  # fmt: skip

    def _path(self, resource: str, name: str | None = None) -> str:
        group = GROUP_OF[resource]
        parts = ["", "apis" if "/" in group else "api", group]
        if resource not in UNNAMESPACED:
            parts += ["namespaces", self.namespace]
        return "/".join([*parts, resource, *([quote(name)] if name else [])])

    @staticmethod
    def _broken() -> tuple[type[Exception], ...]:
        from urllib3.exceptions import HTTPError

        return (HTTPError, ConnectionError)


def plural(kind: str) -> str:
    """`Job` -> `jobs`."""
    return IRREGULAR.get(kind, f"{kind.lower()}s")
