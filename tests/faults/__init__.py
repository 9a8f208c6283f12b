"""What is left of every promise when processes die: real processes, really killed."""
