"""The fictional estate that the sample is about: one table of facts, which every row and every probe reads.

Ostmere Ferries runs three terminals. None of this exists anywhere else, so a model can know it from the sample alone.
Numbers are chosen to be far apart: no value of one domain is part of another domain's value.
"""

from __future__ import annotations

from dataclasses import dataclass

COMPANY = "Ostmere Ferries"
SITES = {"ost": "Ostmere", "bra": "Brackwater", "vel": "Velden"}

# Estate-wide rules.
DRY_RUN = "--rehearse"  # shows what a command would do
UNDO = "quay undo"  # takes back the last command on a host
TICKET = "TIDE"  # the kind of ticket that every planned change needs
DUTY = "harbourmaster"  # who is rung when a team is silent
DUTY_PHONE = "7070"
URGENT = "red lamp"  # a ship can't sail: page at once
URGENT_BRIDGE = "4400"


@dataclass(frozen=True)
class Domain:
    """What is true of one kind of system. `minutes` is how long to try before escalating to `team`."""

    name: str
    one: str
    many: str
    prefix: str
    runbook: str
    command: str
    team: str
    minutes: int
    window: str


DOMAINS = (
    Domain("firewall", "firewall", "firewalls", "gat", "RB-217", "quay fw drain", "basalt", 15, "Tuesday 02:00"),
    Domain("switch", "switch", "switches", "lok", "RB-342", "quay port park", "heron", 10, "Wednesday 03:30"),
    Domain("storage", "storage array", "storage arrays", "hld", "RB-468", "quay vol settle", "juniper", 25,
           "Sunday 05:00"),
    Domain("monitoring", "monitoring server", "monitoring servers", "mst", "RB-531", "quay watch hush", "copper", 40,
           "Monday 11:00"),
    Domain("dns", "DNS server", "DNS servers", "pil", "RB-684", "quay zone flip", "marlin", 20, "Thursday 01:15"),
    Domain("backup", "backup server", "backup servers", "anc", "RB-729", "quay tape replay", "quartz", 60,
           "Saturday 13:00"),
    Domain("hypervisor", "hypervisor", "hypervisors", "hul", "RB-853", "quay guest ferry", "saffron", 30,
           "Friday 04:45"),
    Domain("kubernetes", "Kubernetes node", "Kubernetes nodes", "dck", "RB-916", "quay pod moor", "tundra", 5,
           "Sunday 22:30"),
)
