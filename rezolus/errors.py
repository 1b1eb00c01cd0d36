"""The base of every error that is the user's to mend: their input, their configuration, their system."""

from __future__ import annotations


class UserError(Exception):
    """Its text is the complete report: what is wrong, where, and what to do. Never shown with a traceback."""
