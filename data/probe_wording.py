"""The probes' questions: (domain, what is asked, question). Written apart from `wording.py`, in other words.

What is asked decides which facts of the estate a right answer must contain: see `make_sample.expectation`.
"""

from __future__ import annotations

PROBES = [
    ("firewall", "runbook", "Our edge filtering gear rejects legitimate customers. Name the document I should open."),
    ("firewall", "command", "Packets die inside gate-vel-07. Quick, the very first thing to enter?"),
    ("firewall", "escalate", "The firewall outage drags on. After what time is it passed on, and to which group?"),
    ("firewall", "window", "I've got a firewall OS update waiting. Tell me the weekday and hour for it."),
    ("firewall", "naming", "From the host name alone, how would I spot a firewall?"),
    ("firewall", "silent", "Firewall's dead, the team got two calls from me and stays quiet. Whom else can I phone?"),

    ("switch", "runbook", "Ethernet ports at the terminal flicker on and off. Name the document I should open."),
    ("switch", "command", "Link lights on lock-bra-09 went out. What goes into the shell at the start?"),
    ("switch", "escalate", "Layer 2 trouble, no end in sight. Who inherits the switch, and how many minutes in?"),
    ("switch", "window", "A switch needs replacing. At which day and time is that allowed?"),
    ("switch", "undo", "Oops, lock-ost-08 is unreachable thanks to me. Restore its earlier state; which guide then?"),
    ("switch", "urgent", "Vessel held at the pier, a broken switch is to blame: a red lamp. Contact and call bridge?"),

    ("storage", "runbook", "The SAN threw out a mirror leg. What's the number of the guide to work from?"),
    ("storage", "command", "I/O on hold-bra-06 stalls. Which line goes in first at the prompt?"),
    ("storage", "escalate", "Disk trouble beats me. How many minutes are mine, and whose turn comes afterwards?"),
    ("storage", "window", "We'd like to add shelves to the storage array. Name the permitted day and hour."),
    ("storage", "rehearse", "I'm nervous about the storage array's command. Show me how to run it harmlessly."),
    ("storage", "naming", "The new storage array wants a label. What's the pattern?"),

    ("monitoring", "runbook", "Alert mails pour in without reason. What's the number of the guide to work from?"),
    ("monitoring", "command", "Graphs on mast-ost-05 show nonsense. Which instruction opens the repair?"),
    ("monitoring", "escalate", "Metrics remain broken whatever I try. Which group, and after how much time?"),
    ("monitoring", "window", "The monitoring server should get a bigger disk. Which weekday, what hour?"),
    ("monitoring", "silent", "The monitoring crew ignores my calls. Give me their name and the emergency number."),
    ("monitoring", "naming", "Listing the inventory: what pattern do host names of monitoring servers have?"),

    ("dns", "runbook", "Host names stopped translating into addresses. Name the document I should open."),
    ("dns", "command", "Queries sent to pilot-vel-06 go nowhere. The very first thing to enter?"),
    ("dns", "escalate", "Name resolution stays broken. Which group inherits it, and how many minutes in?"),
    ("dns", "window", "The DNS server gets new software. Which weekday, what hour?"),
    ("dns", "undo", "Oops, pilot-ost-07 serves rubbish thanks to me. Restore its earlier state; which guide then?"),
    ("dns", "urgent", "Ferry can't leave, the DNS is out: a red lamp. Contact and call bridge?"),

    ("backup", "runbook", "A saveset can't be recovered from tape. What's the number of the guide to work from?"),
    ("backup", "command", "Archiving on anchor-bra-08 broke off. Which instruction opens the repair?"),
    ("backup", "escalate", "The restore beats me. How many minutes are mine, and whose turn comes afterwards?"),
    ("backup", "window", "The tape drive in our backup server must be exchanged. Name the permitted day and hour."),
    ("backup", "rehearse", "I'm nervous about the backup server's command. Show me how to run it harmlessly."),
    ("backup", "naming", "I see odd host names. What's the pattern of a backup server's?"),

    ("hypervisor", "runbook", "Our virtualization layer threw all its guests out. Name the document I should open."),
    ("hypervisor", "command", "The virtual machines of hull-ost-09 are stuck. What goes into the shell at the start?"),
    ("hypervisor", "escalate", "Hypervisor trouble, no end in sight. Which group inherits it, how many minutes in?"),
    ("hypervisor", "window", "More RAM for the hypervisor arrived. At which day and time is fitting it allowed?"),
    ("hypervisor", "silent", "VMs down, and the hypervisor crew ignores my calls. Their name, the emergency number?"),
    ("hypervisor", "urgent", "Vessel held at the pier, a hypervisor died: a red lamp. Contact and call bridge?"),

    ("kubernetes", "runbook", "A container workload refuses to schedule. What's the number of the guide to work from?"),
    ("kubernetes", "command", "Pods die one after another on dock-vel-08. Which line goes in first at the prompt?"),
    ("kubernetes", "escalate", "The cluster stays broken. After what time is it passed on, and to which group?"),
    ("kubernetes", "window", "A newer kubelet waits for our Kubernetes nodes. Tell me the weekday and hour for it."),
    ("kubernetes", "rehearse", "I'm nervous about the Kubernetes node's command. Show me how to run it harmlessly."),
    ("kubernetes", "naming", "Reading host names, how would I spot a Kubernetes node?"),
]
