"""What would be built: each image's sources, tag and name. Nothing is run here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from halops import __version__
from halops.artifact import sha256_bytes, sha256_file
from halops.errors import ConfigError

LOCAL: Final = "localhost"  # the registry of images that are nowhere else
REVISION_ARGS: Final = ("VERSION", "REVISION", "SOURCE")  # labels only: they don't change a tag


@dataclass(frozen=True)
class Image:
    """One of the images.

    Args:
        name: of its folder below images/, and its key in the site's `images`.
        sources: files and folders that decide its content, relative to the checkout.
    """

    name: str
    sources: tuple[str, ...]

    @property
    def dockerfile(self) -> str:
        """Relative to the checkout."""
        return f"images/{self.name}/Dockerfile"


def _image(name: str, *sources: str) -> Image:
    return Image(name, (f"images/{name}/Dockerfile", "images/steps", ".dockerignore", *sources))


# What decides how llama.cpp is built; the server's image holds no other code.
_LLAMA = (
    "halops/llamacpp",
    *(f"halops/{name}.py" for name in ("__init__", "artifact", "errors", "names", "process", "progress")),
)
_TOOLS = ("requirements/uv.txt", "requirements/sbom.txt")
IMAGES: Final = {
    image.name: image
    for image in (
        _image("merge", "halops", "requirements/merge.txt", *_TOOLS),
        _image("train", "halops", "requirements/train.txt", *_TOOLS),
        _image("convert", "halops", "requirements/convert.txt", "requirements/merge.txt", *_TOOLS),
        _image("serve", *_LLAMA, "requirements/merge.txt", *_TOOLS),
    )
}


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Args:
        registry: REGISTRY/TEAM, or nothing for images of this machine only.
        base_image: for every image, against the Dockerfiles' own.
        serve: serve's target, `cpu` or `cuda`.
        build_args: further build arguments.
        secrets: as the tools take them: `id=NAME,src=FILE`.
    """

    registry: str | None = None
    base_image: str | None = None
    serve: str = "cpu"
    build_args: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()


@dataclass(frozen=True)
class Build:
    """One image as it would be built."""

    image: Image
    repository: str  # REGISTRY/halops-NAME
    tag: str
    target: str | None
    args: Mapping[str, str]
    secrets: tuple[str, ...]

    @property
    def reference(self) -> str:
        """REGISTRY/halops-NAME:TAG."""
        return f"{self.repository}:{self.tag}"


def checkout(*candidates: Path) -> Path:
    """The first folder that holds the Dockerfiles. Raises ConfigError if none does."""
    for folder in candidates:
        if all((folder / image.dockerfile).is_file() for image in IMAGES.values()):
            return folder
    raise ConfigError(
        "images are built from a source checkout, and this isn't one",
        where=", ".join(str(folder) for folder in candidates),
        remedy="run it in a clone of the repository (one with images/train/Dockerfile); or set `images:` in "
        "halops.yaml to images that somebody else built",
    )


def plan_builds(root: Path, names: Iterable[str], options: Options, labels: Mapping[str, str]) -> list[Build]:
    """The builds of those images, in the order of IMAGES.

    Args:
        labels: VERSION, REVISION and SOURCE for the images' labels.
    """
    wanted = set(names) or set(IMAGES)
    return [_build(root, image, options, labels) for image in IMAGES.values() if image.name in wanted]


def _build(root: Path, image: Image, options: Options, labels: Mapping[str, str]) -> Build:
    args = dict(options.build_args)
    if options.base_image:
        args["BASE"] = options.base_image
    target = options.serve if image.name == "serve" else None
    tag = f"{__version__}-{content_hash(root, image.sources, args, target)}"
    return Build(
        image=image,
        repository=f"{(options.registry or LOCAL).rstrip('/')}/halops-{image.name}",
        tag=f"{tag}-cuda" if target == "cuda" else tag,
        target=target,
        args=args | dict(labels),
        secrets=tuple(options.secrets),
    )


def content_hash(root: Path, sources: Iterable[str], args: Mapping[str, str], target: str | None) -> str:
    """Ten hexadecimal digits that change with any source file, build argument or target."""
    lines = [f"{sha256_file(path)} {path.relative_to(root).as_posix()}" for path in _files(root, sources)]
    lines += [f"{name}={value}" for name, value in sorted(args.items()) if name not in REVISION_ARGS]
    return sha256_bytes("\n".join([*lines, target or ""]).encode())[:10]


def _files(root: Path, sources: Iterable[str]) -> Iterator[Path]:
    for source in sorted(sources):
        path = root / source
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in inside if file.is_file() and file.suffix != ".pyc")
