"""BPF on the running kernel: compile, load, attach, hand over, read.

Only `compile` touches BCC, and only the short-lived loader process imports it. The agent uses
`handover`, `maps` and `stats`, which need neither BCC nor privileges.
"""
