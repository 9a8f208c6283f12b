"""The condition of the service: what is wrong now, which processes work, and how the database is."""
