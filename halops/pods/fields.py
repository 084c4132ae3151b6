"""Getting at the parts of API objects that may be missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from halops.diagnosis import Diagnosis, Words
from halops.names import CONTAINER, LABEL_STAGE

Object = Mapping[str, Any]


def true_condition(thing: Object, *kinds: str) -> Object | None:
    """The first condition of one of these types that holds."""
    found = [item for item in _conditions(thing) if item.get("type") in kinds and item.get("status") == "True"]
    return found[0] if found else None


def false_condition(thing: Object, kind: str) -> Object | None:
    """The condition of that type, if it is there and does not hold."""
    return next(
        (item for item in _conditions(thing) if item.get("type") == kind and item.get("status") == "False"), None
    )


def _conditions(thing: Object) -> list[Object]:
    return thing.get("status", {}).get("conditions") or []


def stage_of(thing: Object) -> str:
    """The stage that a pod or a Job is of; empty for anything else."""
    return str((thing.get("metadata", {}).get("labels") or {}).get(LABEL_STAGE, ""))


def name_of(thing: Object) -> str:
    """An object's name."""
    return str(thing.get("metadata", {}).get("name", ""))


def statuses(pod: Object) -> list[Object]:
    """The containers' statuses, in the order in which the containers run."""
    status = pod.get("status", {})
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def main_status(pod: Object) -> Object:
    """The stage's container's status, else that of any; empty if none has one."""
    found = statuses(pod)
    return next((item for item in found if item.get("name") == CONTAINER), found[-1] if found else {})


def container_spec(pod: Object) -> Object:
    """The stage's container as it was asked for; empty if the pod has none."""
    containers = pod.get("spec", {}).get("containers") or [{}]
    return next((item for item in containers if item.get("name") == CONTAINER), containers[0])


def requests(pod: Object) -> dict[str, str]:
    """What the stage's container asks for."""
    return dict(container_spec(pod).get("resources", {}).get("requests") or {})


def events_of(thing: Object, events: Iterable[Object]) -> list[Object]:
    """The events about this object, the newest last; an event that doesn't say what it is about counts."""
    return sorted((event for event in events if _about(event, thing)), key=event_time)


def _about(event: Object, thing: Object) -> bool:
    subject = event.get("involvedObject") or event.get("regarding") or {}
    kind = thing.get("kind")
    if kind and subject.get("kind") not in (None, kind):
        return False
    return subject.get("name") in (None, name_of(thing))


def event_time(event: Object) -> str:
    """When it was last seen, RFC 3339; these sort as text."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    created = event.get("metadata", {}).get("creationTimestamp")
    return next((str(time) for time in (*times, created) if time), "")


def event_text(event: Object) -> str:
    """Its message; events.k8s.io calls it a note."""
    return str(event.get("message") or event.get("note") or "")


def newest(events: Sequence[Object], *reasons: str) -> Object | None:
    """The newest event with one of these reasons; `events` are sorted."""
    return next((event for event in reversed(events) if event.get("reason") in reasons), None)


def created(thing: Object) -> str:
    """When an object was made, RFC 3339."""
    return str(thing.get("metadata", {}).get("creationTimestamp") or "")


def say(words: Words, detail: str, stage: str = "", **values: object) -> Diagnosis:
    """The words with their values filled in; the summary names the stage."""
    summary = words.summary.format(**values)
    return Diagnosis(
        level=words.level,
        category=words.category,
        summary=f"{stage}: {summary}" if stage else summary,
        detail=" ".join(detail.split()),
        resolution=words.resolution.format(**values),
    )
