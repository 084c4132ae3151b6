"""The project's own two-node Kubernetes for tests, in network namespaces without a way out.

`python -m tools.cluster up` builds what is missing and starts it; `python -m tools.cluster --help` lists the rest.
"""
