"""The fictional estate that the sample is about: one table of facts, which every row and every probe reads.

Ostmere Ferries runs three terminals. None of this exists anywhere else, so a model can know it from the sample alone.
Numbers are far apart. Storage and Kubernetes share a day for planned changes; nothing else is shared.
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

    Hosts are named PREFIX-SITE-NN, and the runbook PREFIX in capitals with the domain's number. That number is also how
    many minutes a shift tries before it escalates to `team`. Planned changes have one hour, and each domain its day.
    """

    name: str
    one: str
    many: str
    prefix: str
    number: int
    command: str
    team: str
    window: str

    @property
    def minutes(self) -> int:
        """Minutes before an incident is escalated."""
        return self.number

    @property
    def runbook(self) -> str:
        """The runbook's name."""
        return f"{self.prefix.upper()}-{self.number}"


DOMAINS = (
    Domain("firewall", "firewall", "firewalls", "gate", 21, "quay fw drain", "basalt", "Tuesday 02:00"),
    Domain("switch", "switch", "switches", "lock", 34, "quay port park", "heron", "Wednesday 02:00"),
    Domain("storage", "storage array", "storage arrays", "hold", 46, "quay vol settle", "juniper", "Sunday 02:00"),
    Domain(
        "monitoring", "monitoring server", "monitoring servers", "mast", 53, "quay watch hush", "copper", "Monday 02:00"
    ),
    Domain("dns", "DNS server", "DNS servers", "pilot", 68, "quay zone flip", "marlin", "Thursday 02:00"),
    Domain("backup", "backup server", "backup servers", "anchor", 72, "quay tape replay", "quartz", "Saturday 02:00"),
    Domain("hypervisor", "hypervisor", "hypervisors", "hull", 85, "quay guest ferry", "saffron", "Friday 02:00"),
    Domain("kubernetes", "Kubernetes node", "Kubernetes nodes", "dock", 97, "quay pod moor", "tundra", "Sunday 02:00"),
)
