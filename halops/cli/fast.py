"""What `--fast` needs: a run's adapter as a GGUF LoRA and its base in GGUF, made as soon as they can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from halops.cli.cluster import ClusterOptions
from halops.cli.common import Place, note
from halops.cli.live import ChainView
from halops.errors import NotFoundError, StageError

if TYPE_CHECKING:
    from halops.backends.base import Backend, Listener
    from halops.deploy.candidate import Candidate
    from halops.runspec import RunSpec


def fast_run(where: Place, run: str | None) -> Candidate:
    """A run that may still be at work: the base's GGUF is made beside its training, the adapter's right after it.

    Raises ConfigError if the site can't serve, StageError if the run ends before its training is done, and what the
    steps raise.
    """
    from halops.deploy.candidate import fast_candidate
    from halops.deploy.values import require_site
    from halops.plan import fast_steps
    from halops.runstate import find_run, load_spec

    require_site(where.site, where.store.uri)
    spec = load_spec(where.store, find_run(where.store, run))
    backend = where.backend(spec, lambda spec: ClusterOptions().render(where, spec, None))
    with ChainView() as view:
        for step, needed in zip(fast_steps(spec), ("base", "train"), strict=True):
            wait_for(backend, spec, needed, view.on_event)
            backend.run_beside(spec, step, view.on_event)
    return fast_candidate(where.store, spec)


def wait_for(backend: Backend, spec: RunSpec, stage: str, listener: Listener) -> None:
    """Follow a run until that stage is done. Raises StageError if it isn't at work, and so never will be."""
    from halops.backends.follow import follow_run
    from halops.runstate import RunStatus

    def done(status: RunStatus) -> bool:
        return any(item.name == stage and item.state == "succeeded" for item in status.stages)

    status = backend.status(spec)
    if done(status):
        return
    if status.state == "running":
        note(f"{spec.run_id}: waiting for {stage}")
        status = follow_run(lambda: backend.status(spec), listener, until=done)
    if not done(status):
        found = next((item.diagnosis for item in status.stages if item.diagnosis), None)
        kind = StageError if found else NotFoundError
        raise kind(
            f"run {spec.run_id} is {status.state} and has no {stage} to serve" + (f": {found}" if found else ""),
            remedy=f"halops resume {spec.run_id}",
        )
