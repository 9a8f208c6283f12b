"""The fal front door: fal's queue, run, rest and CDN hosts and its server-side proxy, for unmodified clients of fal's.

The wire is that of `@fal-ai/client` 1.10 and `fal-client` 1.0, and of https://fal.ai/docs.
"""
