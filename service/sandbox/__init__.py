"""A provider that speaks fal's queue protocol on this machine: for development, demonstrations and tests."""
