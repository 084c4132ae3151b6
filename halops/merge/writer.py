"""Writing shards: headers first, tensors in any order, names only when everything is on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from halops.errors import ConfigError, HostError
from halops.merge.layout import Shard, file_names, index_json
from halops.merge.tensors import INDEX

PARTIAL: Final = ".partial"
# Other files need room too: tokenizer, ledger.
SPARE_BYTES: Final = 64 * 2**20


class ShardWriter:
    """The output's weight files, under partial names until `commit`. Use as a context manager; safe between threads.

    Leaving it without a commit removes everything that it wrote.

    Raises:
        ConfigError: the folder holds a model already.
        HostError: the disk has too little room.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self._folder = folder
        self._shards = tuple(shards)
        self._files: dict[str, int] = {}

    def __enter__(self) -> ShardWriter:
        self._prepare()
        try:
            for shard in self._shards:
                flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
                descriptor = self._files[shard.name] = os.open(self._partial(shard), flags, 0o644)
                os.truncate(descriptor, shard.size)
                self.write(shard, 0, memoryview(shard.header))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        for shard in self._shards:
            self._partial(shard).unlink(missing_ok=True)

    def write(self, shard: Shard, offset: int, data: memoryview) -> None:
        """Write bytes at an absolute position of a shard, and have the kernel begin to store them."""
        descriptor = self._files[shard.name]
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], offset + done)
        if hasattr(os, "posix_fadvise"):
            # For dirty pages this starts the write-back, which would else wait until a tenth of memory is dirty and
            # leave gigabytes to the final fsync. The pages stay cached: the next stages read them.
            os.posix_fadvise(descriptor, offset, len(data), os.POSIX_FADV_DONTNEED)

    def commit(self) -> None:
        """Flush every shard to the disk, give it its name, then write the index."""
        for shard in self._shards:
            os.fsync(self._files[shard.name])
        for shard in self._shards:
            self._partial(shard).rename(self._folder / shard.name)
        if len(self._shards) > 1:
            (self._folder / INDEX).write_bytes(index_json(self._shards))

    def _prepare(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._folder.glob(f"*{PARTIAL}"):
            leftover.unlink()
        taken = sorted({path.name for path in self._folder.glob("model*.safetensors*")} | self._taken())
        if taken:
            raise ConfigError(
                f"the output folder holds a model already ({taken[0]})",
                where=str(self._folder),
                remedy="give a folder that is empty or doesn't exist",
            )
        needed, free = sum(shard.size for shard in self._shards) + SPARE_BYTES, shutil.disk_usage(self._folder).free
        if free < needed:
            raise HostError(
                f"the merged model needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free",
                where=str(self._folder),
                remedy="free some space, or give an output folder on another disk",
            )

    def _taken(self) -> set[str]:
        return {name for name in file_names(self._shards) if (self._folder / name).exists()}

    def _partial(self, shard: Shard) -> Path:
        return self._folder / f"{shard.name}{PARTIAL}"
