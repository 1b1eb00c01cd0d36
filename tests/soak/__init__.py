"""The endurance run: `python -m tests.soak SECONDS`. A daemon with all sinks, everything around it in motion, and what it holds over time."""
