"""Putting a run's objects into the cluster. Doing it again, at once or after a kill at any step, is harmless."""

from __future__ import annotations

import time
from collections.abc import Callable

from halops import names
from halops.backends.kube.api import KubeApi, Object, plural
from halops.backends.kube.observe import annotations_of, job_state, owned, read_history, write_history
from halops.errors import BusyError, ConfigError, HalopsError, TransientError
from halops.manifests.jobs import as_pod
from halops.manifests.run import Rendered, rebuild
from halops.names import root_name
from halops.runspec import RunSpec

SETTLE_SECONDS = 60.0  # for the garbage collector, after an owner is gone
STAYING_SECONDS = 20.0  # for a coordinator that has said how the run ended
POLL_SECONDS = 0.5


def rehearse(api: KubeApi, rendered: Rendered) -> None:
    """Let the server judge every object, and each Job's template as a Pod, without making any.

    Raises ConfigError with every refusal: quota, Pod Security, admission, rights, typos.
    """
    jobs = [rendered.coordinator, *rendered.stages.values()]
    problems = []
    for item in [*rendered.objects(), *map(as_pod, jobs)]:
        try:
            api.create(item, dry_run=True)
        except TransientError:
            raise
        except HalopsError as error:
            said = getattr(error, "problems", ()) or (error.what,)
            problems.append(f"{item['kind']} {item['metadata']['name']}: {'; '.join(said)}")
    if problems:
        raise ConfigError(
            f"the cluster would refuse {len(problems)} of the run's objects",
            problems,
            where=f"namespace {api.namespace} of {api.server}",
            remedy="`halops doctor` says what the namespace lacks",
        )


def kept_objects(api: KubeApi, spec: RunSpec) -> Rendered | None:
    """A run's objects as they were submitted, if its root is there."""
    root = api.get("configmaps", root_name(spec.run_id))
    return rebuild(spec, root) if root else None


class Submission:
    """One run's objects on their way into the cluster.

    Args:
        alive: whether a coordinator works on the run now.
        note: tells a person what happens.
    """

    def __init__(
        self, api: KubeApi, rendered: Rendered, alive: Callable[[], bool], note: Callable[[str], None]
    ) -> None:
        self._api, self._rendered, self._alive, self._note = api, rendered, alive, note

    def make(self) -> None:
        """Root, rights, network, coordinator. Changes nothing of a run that is at work."""
        root = self._root()
        for item in (*self._rendered.rights, *self._rendered.network):
            self._ensure(item, root)
        name = self._rendered.coordinator["metadata"]["name"]
        old = self._api.get("jobs", name)
        if not self._alive():
            self._wake(root)
            self._start(self._rendered.coordinator, root, old["metadata"]["uid"] if old else None)

    def _root(self) -> Object:
        """The root, made or found. One with other Jobs is replaced while nothing works on it; the store keeps the rest.

        Raises BusyError if it belongs to another spec, which its name can't without being forged.
        """
        wanted, name = annotations_of(self._rendered.root), self._rendered.root["metadata"]["name"]
        existing = self._api.create(self._rendered.root) or self._api.get("configmaps", name)
        if existing is None:
            raise BusyError(f"ConfigMap {name} is being deleted", remedy="try again in a moment")
        found = annotations_of(existing)
        if found.get(names.ANNOTATION_SPEC) != wanted[names.ANNOTATION_SPEC]:
            raise BusyError(f"ConfigMap {name} is there, and not of this run", remedy="kubectl delete it, or --new")
        if found.get(names.ANNOTATION_JOBS) == wanted[names.ANNOTATION_JOBS]:
            return existing
        if self._alive():
            self._note("the run is at work with the site's settings of its submission; cancel it to change them")
            return existing
        return self._replace(existing)

    def _replace(self, old: Object) -> Object:
        """The site's settings changed: a new root, with the old one's record of attempts."""
        root, name = self._rendered.root, old["metadata"]["name"]
        self._api.delete("configmaps", name, old["metadata"]["uid"])
        notes = annotations_of(old)
        kept = {key: notes[key] for key in (names.ANNOTATION_ATTEMPTS, names.ANNOTATION_FREED) if key in notes}
        root = root | {"metadata": root["metadata"] | {"annotations": annotations_of(root) | kept}}
        self._note("the site's settings changed since this run was submitted; its objects are made again")
        return self._until(lambda: self._api.create(root), f"ConfigMap {name}")

    def _ensure(self, item: Object, root: Object) -> None:
        """The object, owned by this root; one of a root that is gone is about to go too."""
        resource, name, uid = plural(item["kind"]), item["metadata"]["name"], root["metadata"]["uid"]

        def attempt() -> Object | None:
            found = self._api.create(owned(item, root)) or self._api.get(resource, name) or {}
            owners = found.get("metadata", {}).get("ownerReferences", [])
            return found if any(owner["uid"] == uid for owner in owners) else None

        self._until(attempt, f"{item['kind']} {name}")

    def _wake(self, root: Object) -> None:
        """Mark the run as wanted; a stage that gave up gets another attempt."""
        history = {
            stage: (*records[:-1], records[-1].model_copy(update={"resumed": records[-1].ended is not None}))
            for stage, records in read_history(root).items()
        }
        values: dict[str, str | None] = {names.ANNOTATION_STATE: "running", names.ANNOTATION_DIAGNOSIS: None}
        if history:
            values[names.ANNOTATION_ATTEMPTS] = write_history(history)
        self._api.annotate("configmaps", root["metadata"]["name"], values)

    def _start(self, coordinator: Object, root: Object, old: str | None) -> None:
        """The coordinator's Job. The old one, which ended or is about to, is replaced.

        Args:
            old: its uid, which tells it from the new one of another submitter.
        """
        name, began = coordinator["metadata"]["name"], time.monotonic()

        def attempt() -> Object | None:
            if made := self._api.create(owned(coordinator, root)):
                return made
            found = self._api.get("jobs", name)
            if found is None or found["metadata"].get("deletionTimestamp"):
                return None
            if job_state(found)[0] != "active":
                self._api.delete("jobs", name, found["metadata"]["uid"])
                return None
            # An old one that stays was killed before it could end, and walks on: the root says that the run is wanted.
            stays = time.monotonic() - began > STAYING_SECONDS
            return found if found["metadata"]["uid"] != old or stays else None

        self._until(attempt, f"Job {name}")

    def _until(self, attempt: Callable[[], Object | None], what: str) -> Object:
        deadline = time.monotonic() + SETTLE_SECONDS
        while time.monotonic() < deadline:
            if found := attempt():
                return found
            time.sleep(POLL_SECONDS)
        raise BusyError(f"{what} of an earlier submission doesn't go away", remedy="kubectl describe it, and try again")
