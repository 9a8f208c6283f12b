"""How fast is it, and what does a job cost: `make bench`. The words are in docs/performance.md."""
