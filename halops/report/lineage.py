"""The chain of digests: from the rows and the base model to each file that can be served."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from halops.artifact import FileEntry, Manifest
from halops.report.model import LineageRow
from halops.runspec import RunSpec


def lineage(spec: RunSpec, manifests: Mapping[str, Manifest]) -> tuple[LineageRow, ...]:
    """Each artifact with its SHA-256 and what it was made from, as far as the run has come.

    A folder's digest is that of its manifest, which lists every file's; a single file's is its own.
    """
    return tuple(_rows(spec, manifests))


def _rows(spec: RunSpec, manifests: Mapping[str, Manifest]) -> Iterator[LineageRow]:
    yield LineageRow(what="dataset", digest=spec.dataset.sha256, source=spec.dataset.uri)
    if spec.probes:
        yield LineageRow(what="probes", digest=spec.probes.sha256, source=spec.probes.uri)
    if base := manifests.get("base"):
        yield LineageRow(what="base model", digest=base.digest, source=spec.base.uri)
    if data := manifests.get("data"):
        yield LineageRow(what="prepared rows", digest=data.digest, source="dataset, base model's tokenizer")
    if train := manifests.get("train"):
        for file in _ending(train, "adapter_model.safetensors"):
            start = f", {spec.adapter.uri}" if spec.adapter else ""
            yield LineageRow(what="adapter", digest=file.sha256, source=f"base model, prepared rows{start}")
    if merge := manifests.get("merge"):
        yield LineageRow(what="merged model", digest=merge.digest, source="base model, adapter")
    if convert := manifests.get("convert"):
        for file in _ending(convert, ".gguf"):
            source = "adapter" if "lora" in file.path or "adapter" in file.path else "merged model"
            yield LineageRow(what=file.path, digest=file.sha256, source=source)
    for stage, source in (("base-gguf", "base model"), ("adapter-gguf", "adapter")):
        for file in _ending(manifests[stage], ".gguf") if stage in manifests else ():
            yield LineageRow(what=file.path, digest=file.sha256, source=source)
    if verify := manifests.get("verify"):
        yield LineageRow(what="verification", digest=verify.digest, source="all of the above")


def _ending(manifest: Manifest, suffix: str) -> list[FileEntry]:
    return [file for file in manifest.files if file.path.endswith(suffix)]
