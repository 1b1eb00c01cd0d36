"""A small workload, and the table of what the agent saw of it."""
