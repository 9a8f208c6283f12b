"""The main job from outside: real processes, driven over HTTP, with a stand-in where fal would be."""
