"""The fault suite itself is tested: its checks turn red for what they are there to see, and for nothing else."""
