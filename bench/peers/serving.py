"""`python -m bench.peers.serving NAME`: one process with uvicorn, as in production, on a socket of the bench's."""

import os
import socket
import sys

import uvicorn

if __name__ == "__main__":
    config = uvicorn.Config(f"bench.peers.{sys.argv[1]}:app", log_level="error", access_log=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(os.environ["LISTENER"]))])
