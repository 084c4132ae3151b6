"""Certificates by openssl, and a kubeconfig for each of the cluster's parts."""

from __future__ import annotations

import base64
from pathlib import Path

import yaml

from tools.cluster.shell import run
from tools.cluster.state import API, NODES, State, node_ip

DAYS = "30"
SERVER_NAMES = (
    f"IP:{node_ip(1)},IP:127.0.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,"
    "DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local"
)


def create(state: State) -> None:
    """Make an authority, the service accounts' key pair, and everybody's certificate."""
    state.pki.mkdir(parents=True)
    state.pki.chmod(0o700)
    key = _key(state.pki / "ca.key")
    run("openssl", "req", "-x509", "-new", "-key", key, "-days", DAYS, "-subj", "/CN=halops-test-cluster",
        "-out", state.pki / "ca.crt")  # fmt: skip
    run("openssl", "ec", "-in", _key(state.pki / "sa.key"), "-pubout", "-out", state.pki / "sa.pub")
    _issue(state, "apiserver", "kube-apiserver", names=SERVER_NAMES)
    _issue(state, "kueue", "kueue", "system:masters", f"IP:{node_ip(1)},DNS:localhost")
    for who in ("admin", "netpol"):
        _issue(state, who, who, "system:masters")
    for who, user in (("cm", "kube-controller-manager"), ("sched", "kube-scheduler"), ("proxy", "kube-proxy")):
        _issue(state, who, f"system:{user}")
    for node in NODES:
        _issue(state, f"node{node}", f"system:node:node{node}", "system:nodes", f"IP:{node_ip(node)},DNS:node{node}")


def _key(path: Path) -> Path:
    run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path)
    return path


def _issue(state: State, who: str, user: str, group: str = "halops-test", names: str = "") -> None:
    """A certificate that serves as client's and, with names, as server's; the kubeconfig that goes with it."""
    path = state.pki / who
    request = run("openssl", "req", "-new", "-key", _key(path.with_suffix(".key")), "-subj", f"/O={group}/CN={user}")
    extensions = path.with_suffix(".ext")
    extensions.write_text("extendedKeyUsage=clientAuth,serverAuth\n" + (f"subjectAltName={names}\n" if names else ""))
    run("openssl", "x509", "-req", "-CA", state.pki / "ca.crt", "-CAkey", state.pki / "ca.key", "-CAcreateserial",
        "-days", DAYS, "-extfile", extensions, "-out", path.with_suffix(".crt"), text=request)  # fmt: skip
    extensions.unlink()
    state.kubeconfig(who).write_text(yaml.safe_dump(_kubeconfig(state, who)))


def _kubeconfig(state: State, who: str) -> dict[str, object]:
    """A kubeconfig that holds all it needs: it can be copied elsewhere."""

    def data(name: str) -> str:
        return base64.b64encode((state.pki / name).read_bytes()).decode()

    user = {"client-certificate-data": data(f"{who}.crt"), "client-key-data": data(f"{who}.key")}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": who}}],
        "clusters": [{"name": "test", "cluster": {"server": API, "certificate-authority-data": data("ca.crt")}}],
        "users": [{"name": who, "user": user}],
    }
