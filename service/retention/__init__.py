"""How long what of a job is kept, and what is done when the time is over."""
