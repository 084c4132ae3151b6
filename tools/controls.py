"""Negative controls: take a safeguard out of a copy of the tree, and see a test fail without it. `make controls`

A test that passes without the code that it guards proves nothing. Each control names the safeguard, the lines without
it, and the tests that must notice; first they must pass as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("halops", "tests", "bench", "data", "pyproject.toml", "k8s", "helm", "tools")


@dataclass(frozen=True)
class Control:
    """A safeguard: where it is, what the code is without it, and who should notice."""

    name: str
    file: str
    guarded: str
    bare: str
    tests: tuple[str, ...]


CONTROLS = (
    Control(
        "rows that lie end to end attend only to themselves",
        "halops/train/attention.py",
        "return list(itertools.pairwise(bounds.tolist()))",
        "return [(0, int(bounds[-1]))]",
        ("tests/unit/train/test_packing.py",),
    ),
    Control(
        "a step's loss is divided by the trained tokens of all its micro-batches",
        "halops/train/trainer.py",
        "return torch.tensor(max(1.0, count), device=device)",
        "return None",
        ("tests/unit/train/test_stage.py",),
    ),
    Control(
        "a manifest counts only for the inputs that it was made from",
        "halops/stages/inputs.py",
        "if manifest is None or manifest.inputs != inputs:",
        "if manifest is None:",
        ("tests/unit/stages", "tests/unit/test_runstate.py"),
    ),
    Control(
        "a manifest counts only while its files are there",
        "halops/stages/inputs.py",
        "return None if missing else manifest",
        "return manifest",
        ("tests/unit/stages", "tests/unit/test_runstate.py"),
    ),
    Control(
        "an attempt sees the inputs that it was pinned to",
        "halops/stages/inputs.py",
        "        raise IntegrityError(\n            ",
        "        print(\n            ",
        ("tests/unit/stages",),
    ),
    Control(
        "bytes from a folder are compared with their digest",
        "halops/store/local.py",
        "if sha256 and found != sha256:",
        "if False:",
        ("tests/unit/store",),
    ),
    Control(
        "bytes from S3 are compared with their digest",
        "halops/store/s3.py",
        "if sha256 and found != sha256:",
        "if False:",
        ("tests/unit/store",),
    ),
    Control(
        "the manifest is written last",
        "halops/store/commit.py",
        '        manifest = make_manifest(_store_all(store, f"{prefix}/{ATTEMPTS}/{attempt}", folder, progress))\n',
        '        top = f"{prefix}/{ATTEMPTS}/{attempt}"\n'
        '        manifest = make_manifest(tuple(FileEntry(path=path, key=f"{top}/{path}", size=source.stat().st_size,\n'
        "            sha256=sha256_file(source)) for path, source in walk_files(folder)))\n"
        "        store.write(key, manifest.to_bytes())\n"
        "        _store_all(store, top, folder, progress)\n",
        ("tests/unit/store",),
    ),
    Control(
        "what was stored is looked at before the manifest is written",
        "halops/store/commit.py",
        "        _expect_stored(store, manifest)\n        if store",
        "        if store",
        ("tests/unit/store",),
    ),
    Control(
        "the first of two manifests stands",
        "halops/store/commit.py",
        "if store.exchange(key, replaces, manifest.to_bytes()):",
        "if not store.write(key, manifest.to_bytes()):",
        ("tests/unit/store",),
    ),
    Control(
        "a small object is what was noted with it",
        "halops/store/s3.py",
        "if noted and hashlib.sha256(body).hexdigest() != noted:",
        "if False:",
        ("tests/unit/store",),
    ),
    Control(
        "a resume takes only a checkpoint whose bytes are right",
        "halops/store/checkpoints.py",
        "except IntegrityError as error:",
        "except ZeroDivisionError as error:",
        ("tests/unit/store",),
    ),
    Control(
        "an attempt is recorded, so a stage that failed for good isn't tried again",
        "halops/backends/kube/decide.py",
        "if record.resumed or record.ended:",
        "if False:",
        ("tests/unit/kube",),
    ),
    Control(
        "configuration and corruption end a run at once",
        "halops/backends/retry.py",
        "if exit_code == TRANSIENT or exit_code in KILLED:",
        "if True:",
        ("tests/unit/kube", "tests/unit/backends"),
    ),
    Control(
        "a model for serving is compared with its digest",
        "halops/serving/fetch.py",
        "if found != item.sha256:",
        "if False:",
        ("tests/unit/serving",),
    ),
    Control(
        "a cached model is hashed before it is used",
        "halops/serving/fetch.py",
        "if sha256_file(target) == item.sha256:",
        "if True:",
        ("tests/unit/serving",),
    ),
    Control(
        "only GGUF files are served",
        "halops/serving/fetch.py",
        "        if stream.read(len(MAGIC)) == MAGIC:\n            return",
        "        return",
        ("tests/unit/serving",),
    ),
    Control(
        "a pod counts as started only with its layers on the GPU",
        "helm/halops-inference/files/startup.sh",
        'if [[ $found != "$HALOPS_LAYERS" ]]; then',
        "if false; then",
        ("tests/unit/chart/test_scripts.py",),
    ),
    Control(
        "a drain waits for clients",
        "helm/halops-inference/files/drain.sh",
        "! busy || worked=$SECONDS",
        "worked=-100",
        ("tests/unit/chart/test_scripts.py",),
    ),
    Control(
        "a model that doesn't fit isn't rendered",
        "helm/halops-inference/templates/_checks.tpl",
        "if gt $m.needed $m.declared",
        "if false",
        ("tests/unit/chart/test_generated.py", "tests/unit/chart/test_memory.py"),
    ),
    Control(
        "an API key is asked for",
        "helm/halops-inference/templates/_checks.tpl",
        "if and (not $v.auth.secret) (not $v.auth.disabled)",
        "if false",
        ("tests/unit/chart/test_generated.py",),
    ),
)


def copy_tree(to: Path) -> None:
    """The parts of the tree that the tests need."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, to / name)


def passes(tree: Path, tests: tuple[str, ...]) -> bool:
    """Whether these tests pass in that tree. Its package goes before an installed one, in child processes too."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *tests]
    done = subprocess.run(
        command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):  # neither passed nor failed
        raise SystemExit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.returncode == 0


def noticed(control: Control, tree: Path) -> bool:
    """Whether a test fails without the safeguard. The tree is as before afterwards."""
    path = tree / control.file
    text = path.read_text()
    if control.guarded not in text:
        raise SystemExit(f"{control.file} has no {control.guarded!r} any more: correct the control")
    path.write_text(text.replace(control.guarded, control.bare, 1))
    try:
        return not passes(tree, control.tests)
    finally:
        path.write_text(text)


def main() -> int:
    """Run the controls. Returns 1 if a safeguard can be taken out unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=[""], help="controls whose name contains one of these")
    wanted = parser.parse_args().only
    chosen = [item for item in CONTROLS if any(word in item.name for word in wanted)]
    with tempfile.TemporaryDirectory(prefix="halops-controls-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        suites = sorted({test for item in chosen for test in item.tests})
        if not passes(tree, tuple(suites)):
            print("the tests fail before anything is taken out", file=sys.stderr)
            return 1
        missed = []
        for control in chosen:
            found = noticed(control, tree)
            print(f"{'noticed ' if found else 'UNNOTICED'} without: {control.name}", flush=True)
            missed += [] if found else [control.name]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
