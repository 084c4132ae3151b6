"""The stages' container images: how a tool at hand builds and pushes them, and where their digests are locked."""
