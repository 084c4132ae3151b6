"""Why the API server refuses to make a pod: quota, Pod Security, limits, something missing.

The Job controller reports it as `Error creating: pods "NAME" is forbidden: REASON`; a dry-run gets the same words.
"""

from __future__ import annotations

import re

from halops.diagnosis import Category, Diagnosis, Level, Words
from halops.pods.fields import say
from halops.quantities import parse_quantity

_E, _W = Level.ERROR, Level.WARNING
_QUOTA = re.compile(r"exceeded quota: (\S+), requested: (.*?), used: (.*?), limited: (.*?)\.?$")
_APPLY = "kubectl apply -k k8s/overlays/OVERLAY makes it"

# A pattern of the message -> its words; named groups fill them in. The first row that fits counts.
_ROWS: tuple[tuple[re.Pattern[str], Words], ...] = tuple(
    (re.compile(pattern, re.DOTALL), words)
    for pattern, words in (
        (
            r"failed quota: (?P<quota>\S+): must specify (?P<what>.*?) for",
            Words(_E, Category.QUOTA, "the quota {quota} asks that every pod sets {what}",
                  "take that resource out of the quota, or set a default with a LimitRange"),
        ),
        (
            r'violates PodSecurity "(?P<level>[^"]*)"',
            Words(_E, Category.REFUSED, "the namespace's Pod Security standard ({level}) refuses the pod",
                  "HALops' own pods pass `restricted`: something changes them on the way; the detail says what"),
        ),
        (
            r'serviceaccount "(?P<name>[^"]+)" not found',
            Words(_E, Category.SETUP, "the ServiceAccount {name} isn't there", _APPLY),
        ),
        (
            r"no PriorityClass with name (?P<name>\S+) was found",
            Words(_E, Category.SETUP, "there is no PriorityClass {name}",
                  "correct cluster.priority_class in the profile, or make the class"),
        ),
        (
            r'RuntimeClass "(?P<name>[^"]+)" not found',
            Words(_E, Category.SETUP, "there is no RuntimeClass {name}",
                  "unset cluster.runtime_class where nvidia is the default runtime; otherwise make the class"),
        ),
        (
            r"(?P<side>maximum|minimum) (?P<what>\S+) usage per (?P<kind>\S+) is (?P<limit>[^.,]+(?:\.\d+\w*)?)",
            Words(_E, Category.REFUSED, "a LimitRange allows {what} of {side} {limit} for a {kind}",
                  "change cluster.resources in the profile, or the LimitRange: `kubectl describe limits`"),
        ),
        (
            r"because it is being terminated|namespaces? \"(?P<name>[^\"]*)\" not found",
            Words(_E, Category.SETUP, "the namespace isn't there, or is being deleted", _APPLY),
        ),
        (
            r'admission webhook "(?P<name>[^"]+)" denied',
            Words(_E, Category.REFUSED, "the cluster's policy {name} refuses the pod", "the detail has its reason"),
        ),
        (
            r'failed calling webhook "(?P<name>[^"]+)"',
            Words(_W, Category.REFUSED, "the cluster's policy {name} doesn't answer",
                  "it is tried again; whoever runs that webhook must mend it"),
        ),
        (
            r"cannot create resource \"(?P<what>[^\"]+)\"",
            Words(_E, Category.CREDENTIALS, "this account may not create {what}",
                  "bind it to the ClusterRole halops-submitter: k8s/base"),
        ),
    )
)  # fmt: skip
_OVER = Words(
    _W, Category.QUOTA, "the namespace's quota {quota} is used up: {lacking}",
    "it starts once other pods end; `kubectl describe quota` shows who may what, `halops runs` what is at work",
)  # fmt: skip
_FAR_OVER = Words(
    _E, Category.QUOTA, "the pod asks for more than the namespace's quota {quota} ever allows: {lacking}",
    "raise the quota (k8s/overlays), or ask for less in cluster.resources",
)  # fmt: skip
_OTHER = Words(_E, Category.REFUSED, "the API server refuses the pod", "the detail has its reason")


def explain_refusal(message: str, stage: str = "") -> Diagnosis:
    """Why a pod may not be made.

    Args:
        message: of a FailedCreate event, or of the API server's answer to a create or a dry-run.
    """
    if found := _QUOTA.search(" ".join(message.split())):
        return _quota(found, message, stage)
    for pattern, words in _ROWS:
        if match := pattern.search(message):
            return say(words, message, stage, **match.groupdict(""))
    return say(_OTHER, message, stage)


def _quota(found: re.Match[str], message: str, stage: str) -> Diagnosis:
    requested, used, limited = (_amounts(text) for text in found.groups()[1:])
    lacking = ", ".join(
        f"{name} {amount} asked, {used.get(name, '?')} of {limited.get(name, '?')} in use"
        for name, amount in requested.items()
    )
    never = any(_more(amount, limited.get(name)) for name, amount in requested.items())
    return say(_FAR_OVER if never else _OVER, message, stage, quota=found[1], lacking=lacking)


def _amounts(text: str) -> dict[str, str]:
    """`a=1,b=2` as a dict."""
    return {name: amount for name, _, amount in (part.strip().partition("=") for part in text.split(","))}


def _more(amount: str, limit: str | None) -> bool:
    try:
        return limit is not None and parse_quantity(amount) > parse_quantity(limit)
    except ValueError:
        return False
