"""Starts a command of the service with bugs planted in it: `python -m faults.planted NAME,NAME worker`."""

import sys

from faults.plants import PLANTS


def main() -> None:
    names, *arguments = sys.argv[1:]
    from service.cli import main as command

    for name in names.split(","):
        PLANTS[name].apply()
    command(arguments)


if __name__ == "__main__":
    main()
