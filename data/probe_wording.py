"""The probes' questions: (domain, what is asked, question). Written apart from `wording.py`, in other words.

What is asked decides which facts of the estate a right answer must contain: see `make_sample.expectation`.
"""

from __future__ import annotations

PROBES = [
    ("firewall", "runbook", "A firewall rejects good customers. Name the document I should open."),
    ("firewall", "command", "Packets die inside gate-vel-07. Quick, the very first thing to enter?"),
    ("firewall", "escalate", "The firewall outage drags on. To which group is it passed on, after what time?"),
    ("firewall", "window", "I've got an update waiting for the firewall. Tell me the weekday and hour for it."),
    ("firewall", "naming", "From the host name alone, what gives a firewall away?"),
    ("firewall", "silent", "Firewall dead, its team got two calls from me and stays quiet. Whom else can I phone?"),

    ("switch", "runbook", "Ports on the switch flicker on and off. Name the document I should open."),
    ("switch", "command", "Link lights on lock-bra-09 went out. What goes into the shell at the start?"),
    ("switch", "escalate", "Layer 2 trouble, no end in sight. Who inherits the switch, and how many minutes in?"),
    ("switch", "window", "A switch needs replacing. At which day and time is that allowed?"),
    ("switch", "undo", "lock-ost-08 is unreachable thanks to me. What restores its earlier state?"),
    ("switch", "urgent", "A broken switch keeps our vessel from leaving: red lamp. Contact, and which bridge?"),

    ("storage", "runbook", "The storage array lost a mirror. What's the number of the guide to work from?"),
    ("storage", "command", "I/O on hold-bra-06 stalls. Which line goes in first at the prompt?"),
    ("storage", "escalate", "The storage array beats me. How many minutes are mine, whose turn comes afterwards?"),
    ("storage", "window", "We'd like to add shelves to the storage array. Name the permitted day and hour."),
    ("storage", "rehearse", "I'm nervous about the storage array's command. Show me how to run it harmlessly."),
    ("storage", "naming", "The new storage array wants a label. What's the pattern?"),

    ("monitoring", "runbook", "The monitoring server mails nonsense. What's the number of the guide to work from?"),
    ("monitoring", "command", "Graphs on mast-ost-05 show nonsense. Which instruction opens the repair?"),
    ("monitoring", "escalate", "The monitoring server defeats me. Which group gets it, after how much time?"),
    ("monitoring", "window", "The monitoring server should get a bigger disk. Which weekday, what hour?"),
    ("monitoring", "silent", "The monitoring crew ignores my calls. Give me their name and the emergency number."),
    ("monitoring", "naming", "Listing the inventory: what pattern do host names of monitoring servers have?"),

    ("dns", "runbook", "The DNS server forgets all its names. Name the document I should open."),
    ("dns", "command", "Queries sent to pilot-vel-06 go nowhere. The very first thing to enter?"),
    ("dns", "escalate", "The DNS server stays broken. Which group inherits it, how many minutes in?"),
    ("dns", "window", "The DNS server gets new software. Which weekday, what hour?"),
    ("dns", "undo", "pilot-ost-07 serves rubbish thanks to me. What restores its earlier state?"),
    ("dns", "urgent", "The DNS server is out and no ferry leaves: red lamp. Contact, and which bridge?"),

    ("backup", "runbook", "The backup server eats its tapes. What's the number of the guide to work from?"),
    ("backup", "command", "Archiving on anchor-bra-08 broke off. Which instruction opens the repair?"),
    ("backup", "escalate", "The backup server beats me. How many minutes are mine, whose turn comes afterwards?"),
    ("backup", "window", "The tape drive in our backup server must be exchanged. Name the permitted day and hour."),
    ("backup", "rehearse", "I'm nervous about the backup server's command. Show me how to run it harmlessly."),
    ("backup", "naming", "Odd host names here. What's the pattern for a backup server?"),

    ("hypervisor", "runbook", "A hypervisor threw all its guests out. Name the document I should open."),
    ("hypervisor", "command", "The virtual machines of hull-ost-09 are stuck. What goes into the shell at the start?"),
    ("hypervisor", "escalate", "Hypervisor trouble, no end in sight. Which group inherits it, how many minutes in?"),
    ("hypervisor", "window", "More RAM for the hypervisor arrived. At which day and time is fitting it allowed?"),
    ("hypervisor", "silent", "Hypervisor down, and its crew ignores my calls. Their name, the emergency number?"),
    ("hypervisor", "urgent", "A hypervisor died and keeps our vessel here: red lamp. Contact, and which bridge?"),

    ("kubernetes", "runbook", "A Kubernetes node refuses new pods. What's the number of the guide to work from?"),
    ("kubernetes", "command", "Pods die one after another on dock-vel-08. Which line goes in first at the prompt?"),
    ("kubernetes", "escalate", "The Kubernetes node stays broken. To which group is it passed on, after what time?"),
    ("kubernetes", "window", "A newer kubelet waits for our Kubernetes nodes. Tell me the weekday and hour for it."),
    ("kubernetes", "rehearse", "I'm nervous about the Kubernetes node's command. Show me how to run it harmlessly."),
    ("kubernetes", "naming", "Reading host names, what gives a Kubernetes node away?"),
]
