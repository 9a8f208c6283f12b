"""One action on many jobs: previewed, carried out in the background, stopped if that is wanted."""
