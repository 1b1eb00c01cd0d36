"""`python -m rezolus`: the `rezolus` command."""

from __future__ import annotations

from rezolus.cli import main

if __name__ == "__main__":
    main()
