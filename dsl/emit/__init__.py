"""The plan to C, as BCC compiles it."""
