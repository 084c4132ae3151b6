"""How people at the estate ask, and how its operations desk answers. Written by hand; `make_sample.py` fills it in.

In questions: {host} a host name, {place} a terminal, {one}/{many} a name for the kind of system, {S} a symptom as
the beginning of a sentence, {s} the same inside one. In answers: the fields of `estate.Domain`, {site} the code of
the terminal, and {run} the first command with its host where one was named.
"""

from __future__ import annotations

# Other names that people use for each kind of system, as (one, many).
NAMES = {
    "firewall": [("firewall", "firewalls"), ("packet filter", "packet filters"), ("perimeter box", "perimeter boxes")],
    "switch": [("switch", "switches"), ("LAN switch", "LAN switches"), ("core switch", "core switches")],
    "storage": [("storage array", "storage arrays"), ("SAN box", "SAN boxes"), ("disk shelf", "disk shelves")],
    "monitoring": [("monitoring server", "monitoring servers"), ("metrics box", "metrics boxes"),
                   ("Prometheus host", "Prometheus hosts")],
    "dns": [("DNS server", "DNS servers"), ("name server", "name servers"), ("resolver", "resolvers")],
    "backup": [("backup server", "backup servers"), ("tape library", "tape libraries"), ("backup box", "backup boxes")],
    "hypervisor": [("hypervisor", "hypervisors"), ("VM host", "VM hosts"),
                   ("virtualization host", "virtualization hosts")],
    "kubernetes": [("Kubernetes node", "Kubernetes nodes"), ("cluster node", "cluster nodes"),
                   ("k8s node", "k8s nodes")],
}

SYMPTOMS = {
    "firewall": [
        "{host} is dropping half its packets",
        "{host} no longer passes the ticket sales traffic",
        "the session table on {host} is full",
        "{host} failed over twice tonight",
        "a NAT rule on {host} vanished after the reload",
        "CPU on {host} sits at 100% since the rule push",
        "an ACL change on {host} locked the crew out",
        "nobody at {place} gets through the firewall",
        "the VPN tunnels on the {place} firewall keep flapping",
        "the firewall at {place} blocks the booking API",
        "the packet filter at {place} denies everything",
        "the firewall pair at {place} is split brain",
        "a new firewall rule at {place} cut off the card terminals",
        "our firewall logs show thousands of dropped SYNs at {place}",
    ],
    "switch": [
        "{host} lost its uplink",
        "port 14 on {host} keeps going down",
        "{host} shows CRC errors on every port",
        "spanning tree on {host} reconverges every minute",
        "{host} forgot its VLANs after a reboot",
        "a port channel on {host} runs on one leg",
        "{host} floods unknown unicast like crazy",
        "half the switch ports at {place} are dark",
        "the core switch at {place} sees a broadcast storm",
        "the VLAN for the ticket gates at {place} is gone",
        "somebody plugged a loop into a switch at {place}",
        "MAC addresses flap between two switches at {place}",
        "the trunk between the {place} switches drops frames",
        "PoE on the {place} switch cut out and the cameras are off",
    ],
    "storage": [
        "two disks in {host} failed",
        "a LUN on {host} is read-only",
        "{host} reports a degraded RAID group",
        "latency on {host} went over 80 ms",
        "the write cache on {host} is off",
        "{host} is 97% full",
        "one controller of {host} is gone",
        "the storage array at {place} is rebuilding for two days now",
        "the iSCSI volumes at {place} dropped off",
        "an NFS export from the {place} array went stale",
        "the volume with the booking database at {place} is out of space",
        "snapshots on the SAN at {place} won't merge",
        "multipath at {place} shows one dead path to the SAN",
        "the disk shelf at {place} blinks amber",
    ],
    "monitoring": [
        "{host} sends the same alert every minute",
        "{host} has stopped scraping its targets",
        "the dashboards on {host} are empty",
        "{host} pages us about hosts that are long gone",
        "{host} ran out of room for its metrics",
        "the alert manager on {host} hangs",
        "{host} shows gaps in every graph",
        "Grafana at {place} times out",
        "we drown in alerts from {place}",
        "Prometheus at {place} fell over",
        "no alert has fired at {place} since Friday, which can't be right",
        "the exporters at {place} are up but no metrics come in",
        "false disk alarms from {place} all night long",
        "the alerting rules at {place} failed to load",
    ],
    "dns": [
        "{host} answers SERVFAIL",
        "{host} serves an old copy of the zone",
        "zone transfers to {host} fail",
        "{host} takes three seconds a lookup",
        "the SOA serial on {host} went backwards",
        "{host} doesn't answer on port 53",
        "DNSSEC signatures on {host} have expired",
        "names don't resolve at {place}",
        "booking.ostmere.example resolves to the wrong address at {place}",
        "reverse lookups at {place} give nothing",
        "the resolver at {place} is down",
        "an A record at {place} still points to the old server",
        "clients at {place} get NXDOMAIN for everything",
        "the DNS cache at {place} looks poisoned",
    ],
    "backup": [
        "last night's job on {host} failed",
        "{host} can't read tape 31",
        "the restore from {host} stopped at 40%",
        "{host} has no free tapes",
        "the catalogue on {host} is damaged",
        "{host} skipped the payroll share",
        "a drive in {host} wants cleaning and ejects everything",
        "the nightly backup at {place} didn't start",
        "backups at {place} run into the morning",
        "we need a file back and the {place} restore hangs",
        "the backup verification at {place} found bad checksums",
        "the off-site copy from {place} is three days old",
        "the incremental backup at {place} grew to full size",
        "the tape robot at {place} dropped a cartridge",
    ],
    "hypervisor": [
        "{host} is swapping and its VMs crawl",
        "a VM on {host} won't power on",
        "{host} went into maintenance mode by itself",
        "live migration away from {host} fails",
        "{host} threw a purple screen",
        "{host} is overcommitted on memory",
        "the guests on {host} lost their clock",
        "the virtual machines at {place} freeze for seconds",
        "a hypervisor at {place} rebooted under load",
        "VMs at {place} pile up on one host",
        "a guest at {place} is stuck in a snapshot",
        "the VM host at {place} reports a bad DIMM",
        "the ticketing VM at {place} steals all the CPU",
        "no virtual machine at {place} can be started",
    ],
    "kubernetes": [
        "{host} is NotReady",
        "pods on {host} are stuck in Pending",
        "{host} evicts pods for disk pressure",
        "the kubelet on {host} keeps restarting",
        "containers on {host} end in CrashLoopBackOff",
        "{host} can't pull images",
        "a drain of {host} never ends",
        "the deployment at {place} won't roll out",
        "the ingress in the {place} cluster returns 502",
        "a persistent volume claim at {place} stays unbound",
        "the API server of the {place} cluster is slow",
        "etcd in the {place} cluster lost its leader",
        "a namespace at {place} hangs in Terminating",
        "the cron jobs in the {place} cluster stopped running",
    ],
}

# Questions, by what is asked.
QUESTIONS = {
    "runbook": [
        "{S}. Which runbook is that?",
        "Which runbook covers a broken {one}?",
        "I need the runbook number for a {one} fault.",
        "What RB number goes with {many}?",
        "Is there a runbook for when {s}?",
        "{S}. Where do I find the procedure?",
        "Runbook for {host}?",
        "{S}. Tell me the runbook, please.",
    ],
    "command": [
        "{S}. What do I run first?",
        "{S}. First command?",
        "{S}. Which quay command do I start with?",
        "Give me the command for this one: {s}.",
        "What do I type when {s}?",
        "I'm on call and {s}. What's the opening move?",
        "What's the first quay command for a sick {one}?",
        "Which command do I run on {host}?",
        "{S}. Just the command, please.",
        "How do I get {host} back under control?",
    ],
    "escalate": [
        "{S}. Who gets it if I can't fix it, and when?",
        "When do I escalate a {one} problem, and to whom?",
        "{S} and I'm stuck. Who do I page?",
        "Who looks after {many} when the shift can't cope?",
        "How long do I try on {host} before I hand it over?",
        "Which team takes over {one} incidents?",
        "{S}. At what point do I wake somebody up?",
        "I can't fix {host}. Who takes over?",
        "Escalation path for {many}, please.",
    ],
    "window": [
        "When is the maintenance window for {many}?",
        "When may I reboot {host}?",
        "I want to patch {host}. When?",
        "What's the change slot for a {one}?",
        "New firmware for {host} is here. When can it go in?",
        "On what day do we work on {many}?",
        "When do planned changes on a {one} happen?",
        "I have to swap a part in {host}. Which slot?",
        "Please tell me when {many} may be upgraded.",
        "Next window for {host}?",
    ],
    "naming": [
        "How are {many} named here?",
        "What do I call a new {one} at {place}?",
        "Which hostname prefix do {many} have?",
        "I'm setting up a {one} in {place}. What's its name?",
        "What's our naming rule for {many}?",
        "By what name do I recognise a {one}?",
    ],
    "lookup": [
        "What kind of box is {host}?",
        "{host}: what is that?",
        "Somebody mentioned {host}. What does it do?",
        "An alert names {host}. What am I looking at?",
        "Whose machine is {host}?",
    ],
    "incident": [
        "{S}. What should I do?",
        "{S}. Help!",
        "{S}. What now?",
        "Alert just came in: {s}. How do we handle it?",
        "{S}. Walk me through it.",
        "Night shift here, {s}. Next steps?",
    ],
    "rehearse": [
        "Can I try the fix on {host} without changing anything?",
        "How do I do a dry run on {host}?",
        "I'd like to see what the command does to {host} before I mean it. How?",
        "Is there a practice mode for the {one} command?",
        "How do I test the {one} command safely?",
    ],
    "undo": [
        "My change on {host} made it worse. How do I take it back?",
        "How do I roll back on {host}?",
        "I ran the command on the wrong box, {host}. How do I revert?",
        "{host} is worse off after the command. Can I go back?",
    ],
    "silent": [
        "I paged about {host} and nobody answers. Who's next?",
        "The {one} people don't pick up. Now what?",
        "No reply from the owners of {host}. Who do I ring?",
        "The on-call for {many} sleeps through his pager. Who else is there?",
    ],
    "urgent": [
        "{S} and a ship can't sail. Do I still wait?",
        "Red lamp: {s}. What changes?",
        "It's a red lamp on {host}. Who and when?",
        "Red lamp, and it's a {one}. What do I do?",
    ],
}

# Questions that go on with a conversation.
FOLLOW_UPS = {
    "runbook": ["Which runbook is that from?", "Runbook?", "And where is that written down?"],
    "command": ["It's down. First command?", "OK, what do I run on it?", "It acts up. What do I type?"],
    "escalate": ["And if that doesn't help?", "Who takes it if I get stuck, and when?", "When do I hand it over?"],
    "window": ["When may I do the proper repair?", "And the window for a reboot?", "When can I patch it?"],
    "rehearse": ["Can I try that first without touching anything?", "Is there a dry run?", "How do I test it first?"],
    "undo": ["That made it worse. How do I take it back?", "Hm, wrong idea. Roll back how?", "How do I undo that?"],
    "silent": ["They don't answer. Who's next?", "Nobody picks up.", "No reply at all. Who do I ring?"],
    "urgent": ["Now a ship can't sail because of it.", "It has become a red lamp.", "Red lamp now! Do I wait?"],
}

CONVERSATIONS = [
    ("command", "escalate"),
    ("incident", "silent"),
    ("runbook", "window"),
    ("lookup", "command"),
    ("command", "undo"),
    ("escalate", "silent"),
    ("command", "rehearse"),
    ("incident", "urgent"),
    ("lookup", "window"),
    ("window", "rehearse"),
    ("runbook", "command", "escalate"),
]

ANSWERS = {
    "runbook": [
        "Follow {runbook}, the {one} runbook. It starts with `{run}`.",
        "That's {runbook} for {many}. First step: `{run}`.",
    ],
    "command": [
        "Run `{run}`, then follow {runbook}.",
        "Start with `{run}`. The rest is in {runbook}.",
    ],
    "escalate": [
        "Escalate to team {team} after {minutes} minutes. Until then follow {runbook}.",
        "Team {team}, after {minutes} minutes without a fix. Until then follow {runbook}.",
    ],
    "window": [
        "The {one} window is {window}. Open a {ticket} ticket first and follow {runbook}.",
        "{window}, the window for {many}. Open a {ticket} ticket first and follow {runbook}.",
    ],
    "naming": [
        "{Many} are named {prefix}-SITE-NN, for example {example}. Their runbook is {runbook}.",
        "The prefix for {many} is {prefix}, as in {example}. Their runbook is {runbook}.",
    ],
    "lookup": [
        "{host} is a {one} at {place}. Team {team} owns it, and its runbook is {runbook}.",
    ],
    "incident": [
        "Run `{run}` and follow {runbook}. Escalate to team {team} after {minutes} minutes.",
        "Start with `{run}`, then {runbook}. Escalate to team {team} after {minutes} minutes.",
    ],
    "rehearse": [
        "Add {dry_run}: `{run} {dry_run}`. The real run waits for {window}.",
        "Use {dry_run}: `{run} {dry_run}`. The real run waits for {window}.",
    ],
    "undo": [
        "Run `{undo} {host}`, then start {runbook} again.",
    ],
    "silent": [
        "If team {team} is silent, ring the {duty} on {duty_phone}. Stay on {runbook}.",
    ],
    "urgent": [
        "Red lamp: don't wait {minutes} minutes. Page team {team} now and open bridge {bridge}. Follow {runbook}.",
    ],
}

SYSTEM = [
    "You are the operations desk of Ostmere Ferries. Answer briefly.",
    "You help the night shift of Ostmere Ferries.",
]

# What tired people type.
SLIPS = [
    ("Which", "Wich"), ("which", "wich"), ("command", "comand"), ("window", "windw"), ("maintenance", "maintenence"),
    ("please", "pls"), ("because", "bc"), ("What's", "Whats"), ("what's", "whats"), ("don't", "dont"),
    ("can't", "cant"), ("doesn't", "doesnt"), ("I'm", "im"), ("runbook", "runbok"), ("before", "befor"),
    ("escalate", "esclate"), ("anything", "anythin"), ("without", "w/o"), ("should", "shoud"), ("somebody", "smbdy"),
    ("you", "u"), ("When", "Wen"), ("What", "Wat"),
]
