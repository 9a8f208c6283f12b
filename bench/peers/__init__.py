"""The same job on other stacks, each as its documentation shows it: what `make bench ARGS=--peers` compares with.

They run in an environment of their own (`uv.lock` here), and take from it and from the variables of `surroundings.py`
all that they need; nothing of the project is in them.
"""
