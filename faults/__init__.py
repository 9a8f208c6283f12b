"""Real processes under load while a seeded schedule of faults runs, and what is left of every promise."""
