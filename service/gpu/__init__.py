"""Models on GPUs of one's own."""
