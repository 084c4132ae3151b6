"""Kueue's real controller, as a process in the first node's namespace."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path
from typing import Any, Final

import yaml

from tools.cluster import components
from tools.cluster.network import inside
from tools.cluster.parts import PARTS
from tools.cluster.shell import say, succeeds, wait_until
from tools.cluster.state import State, node_ip

PORT: Final = 9443
METRICS_CERTIFICATE: Final = Path("/etc/kueue/metrics/certs")  # built in
# Webhooks are named mjob.kb.io, vworkload.kb.io, ...; those of kinds that aren't installed would only be in the way.
KINDS: Final = {"job", "clusterqueue", "cohort", "resourceflavor", "workload", "localqueue"}
CONFIGURATION: Final = {
    "apiVersion": "config.kueue.x-k8s.io/v1beta2",
    "kind": "Configuration",
    "health": {"healthProbeBindAddress": "127.0.0.1:18081"},
    "metrics": {"bindAddress": "127.0.0.1:18443"},
    "leaderElection": {"leaderElect": False},
    "internalCertManagement": {"enable": False},
    "featureGates": {"VisibilityOnDemand": False},  # an API server of its own, which only dashboards ask
    "integrations": {"frameworks": ["batch/job"]},
}


def install(state: State) -> None:
    """Put Kueue's kinds and webhooks into a running cluster, and start it. It may be there already."""
    manifests = PARTS["kueue"].folder
    apply = ("apply", "--server-side", "--force-conflicts", "-f")
    components.kubectl(state, *apply, str(manifests / "bases"))
    components.kubectl(state, *apply, "-", text="{apiVersion: v1, kind: Namespace, metadata: {name: kueue-system}}")
    components.kubectl(state, "wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    _write_files(state)
    components.start(state, "kueue")
    wait_until("Kueue's webhooks", lambda: _listens(state))
    components.kubectl(state, *apply, "-", text=yaml.safe_dump_all(_webhooks(state, manifests / "manifests.yaml")))
    say("Kueue is up")


def remove(state: State) -> None:
    """Stop Kueue and take its webhooks away: with them and without it, nobody could create a Job. Its kinds stay."""
    for kind in ("mutating", "validating"):
        name = f"kueue-{kind}-webhook-configuration"
        components.kubectl(state, "delete", f"{kind}webhookconfiguration", name, "--ignore-not-found")
    components.stop(state, "kueue")


def _write_files(state: State) -> None:
    certificates = state.run / "kueue"
    for folder in (certificates, METRICS_CERTIFICATE):
        folder.mkdir(parents=True, exist_ok=True)
        for suffix in ("crt", "key"):
            shutil.copy(state.pki / f"kueue.{suffix}", folder / f"tls.{suffix}")
    webhook = {"webhook": {"port": PORT, "certDir": str(certificates)}}
    (state.run / "kueue.yaml").write_text(yaml.safe_dump(CONFIGURATION | webhook))


def _webhooks(state: State, manifest: Path) -> list[dict[str, Any]]:
    """The module's own webhooks, for a server that is no Service but a process with an address."""
    authority = base64.b64encode((state.pki / "ca.crt").read_bytes()).decode()
    documents = list(yaml.safe_load_all(manifest.read_text()))
    for document in documents:
        document["metadata"]["name"] = f"kueue-{document['metadata']['name']}"
        document["webhooks"] = [hook for hook in document["webhooks"] if hook["name"].split(".")[0][1:] in KINDS]
        for hook in document["webhooks"]:
            url = f"https://{node_ip(1)}:{PORT}{hook['clientConfig']['service']['path']}"
            hook["clientConfig"] = {"url": url, "caBundle": authority}
    return documents


def _listens(state: State) -> bool:
    return succeeds(*inside(state, 1), "bash", "-c", f"exec 3<>/dev/tcp/{node_ip(1)}/{PORT}")
