"""The checked program run without a kernel, on events of a test: what the language means, as code."""
