"""`rezolus watch`: live values of a few definitions in a terminal.

`frame` turns readings into what is to be seen, `bars` and `render` turn that into lines, `session` runs the agent.
"""
