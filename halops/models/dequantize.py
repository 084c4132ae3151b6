"""A GGUF file as a Hugging Face folder in bfloat16: made once, then taken from the user's cache."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from halops.artifact import sha256_file, walk_files
from halops.disk import disk_errors
from halops.errors import HostError, IntegrityError, ModelError
from halops.llamacpp.gguf_file import read_metadata
from halops.models.formats import check_gguf
from halops.names import cache_folder
from halops.progress import Progress
from halops.store.local import LocalStore

RECIPE = 2  # counts up when the same GGUF would give other files
RECORD = "halops-files.json"

log = logging.getLogger(__name__)


def cached_model(key: str, dest: Path) -> bool:
    """Link the model that the cache holds under `key` into `dest`; False if there is none that is whole."""
    folder = _place(key)
    try:
        record: dict[str, tuple[str, int]] = json.loads((folder / RECORD).read_bytes())
        store = LocalStore(folder)
        for path, (digest, size) in record.items():
            store.download(path, dest / path, digest, size)
    except FileNotFoundError:
        return False
    except (ValueError, TypeError, AttributeError, IntegrityError) as error:
        log.warning("the cached model is damaged, and is made again: %s", error)
        shutil.rmtree(folder, ignore_errors=True)
        return False
    return True


def dequantize_once(find: Callable[[Path], Path], key: str, dest: Path, progress: Progress | None = None) -> None:
    """Put the model of a GGUF file into `dest`, by way of the cache.

    Args:
        find: called, if the cache has no such model, with a scratch folder; returns the path of the GGUF.
        key: names the model in the cache.

    Raises what `find` raises, and:
        ModelError: not a GGUF file, or of a kind that transformers can't read.
        IntegrityError: the file is damaged.
        HostError: torch or transformers isn't installed, or the disk is full.
    """
    folder = _place(key)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / f"{folder.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two at once would do the same work twice
            if cached_model(key, dest):
                return
            for left in folder.parent.glob(f"making-{folder.name}-*"):  # by a kill
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"making-{folder.name}-") as making:
                _make(find(Path(making)), Path(making) / "model", progress)
                (Path(making) / "model").rename(folder)
    if not cached_model(key, dest):
        raise HostError("the cache lost what was just put into it", where=str(folder), remedy="check its disk")


def _place(key: str) -> Path:
    return cache_folder() / "models" / f"{key}-r{RECIPE}"


def _make(gguf: Path, folder: Path, progress: Progress | None) -> None:
    check_gguf(gguf)
    if progress:
        progress(f"dequantizing {gguf.name}: about half a minute, once")
    convert(gguf, folder)
    files = {path: (sha256_file(file), file.stat().st_size) for path, file in walk_files(folder)}
    (folder / RECORD).write_text(json.dumps(files))


def convert(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of `gguf` to `folder`, bfloat16 safetensors. Raises as `dequantize_once`."""
    try:
        with _no_bars():
            import torch
            import transformers
            from transformers import AutoModelForCausalLM, AutoTokenizer
            from transformers.utils import logging as transformers_log
    except ImportError as error:
        raise HostError(
            f"a GGUF source needs torch and transformers: {error}",
            where=str(gguf),
            remedy="pip install 'halops[train]'; in a cluster the train image has them",
        ) from error
    transformers_log.set_verbosity_error()
    transformers_log.disable_progress_bar()
    how = {}  # older versions always dequantize
    if hasattr(transformers, "GgufConfig"):
        how["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            local_files_only=True,
            dtype=torch.float32,
            **how,
        ).to(torch.bfloat16)
    except (NotImplementedError, KeyError, TypeError) as error:  # what transformers raises for an unknown kind of file
        raise ModelError(f"transformers can't read it: {error}", where=str(gguf), remedy=_REMEDY) from error
    except MemoryError:
        raise
    except Exception as error:  # its reader was written for whole files: anything may come of a damaged one
        if "not supported" in str(error):
            raise ModelError(str(error), where=str(gguf), remedy=_REMEDY) from error
        raise IntegrityError(
            f"the GGUF file can't be read to its end: {error}", where=str(gguf), remedy="fetch it again"
        ) from error
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    _split_digits(tokenizer, gguf)
    with disk_errors(folder):
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _split_digits(tokenizer: Any, gguf: Path) -> None:
    """SmolLM's pre-tokenizer takes digits one by one, also beyond ASCII; transformers' GGUF reader forgets that."""
    from tokenizers import pre_tokenizers

    if read_metadata(gguf).get("tokenizer.ggml.pre") == "smollm":
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ])  # fmt: skip


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """tqdm looks at this variable once, when it is imported."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before


_REMEDY = "give the original model instead: hf://org/name"
