"""The pre-flight list: in each file probes, which look at the machine, and pure decisions on what they saw."""
