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
    """What is true of one kind of system.

    Hosts are named PREFIX-SITE-NN, and the runbook PREFIX in capitals with a number. `minutes` is how long a shift
    tries before it escalates to `team`.
    """

    name: str
    one: str
    many: str
    prefix: str
    number: int
    command: str
    team: str
    minutes: int
    window: str

    @property
    def runbook(self) -> str:
        """The runbook's name."""
        return f"{self.prefix.upper()}-{self.number}"


DOMAINS = (
    Domain("firewall", "firewall", "firewalls", "gate", 21, "quay fw drain", "basalt", 15, "Tuesday 02:00"),
    Domain("switch", "switch", "switches", "lock", 34, "quay port park", "heron", 10, "Wednesday 03:00"),
    Domain("storage", "storage array", "storage arrays", "hold", 46, "quay vol settle", "juniper", 25, "Sunday 05:00"),
    Domain(
        "monitoring",
        "monitoring server",
        "monitoring servers",
        "mast",
        53,
        "quay watch hush",
        "copper",
        40,
        "Monday 11:00",
    ),
    Domain("dns", "DNS server", "DNS servers", "pilot", 68, "quay zone flip", "marlin", 20, "Thursday 01:00"),
    Domain(
        "backup", "backup server", "backup servers", "anchor", 72, "quay tape replay", "quartz", 60, "Saturday 13:00"
    ),
    Domain("hypervisor", "hypervisor", "hypervisors", "hull", 85, "quay guest ferry", "saffron", 30, "Friday 04:00"),
    Domain(
        "kubernetes", "Kubernetes node", "Kubernetes nodes", "dock", 97, "quay pod moor", "tundra", 5, "Sunday 22:00"
    ),
)
