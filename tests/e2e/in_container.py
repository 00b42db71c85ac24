"""A visitor inside the container, which may have no network: prints the messages of each command line as JSON."""

import json
import sys
from typing import Any

from websockets.sync.client import connect

BOUND = 20.0  # seconds for each message


def main() -> None:
    """Run the lines that standard input has as a JSON list of [command, input]."""
    with connect("ws://127.0.0.1:8000/ws/terminal", compression=None) as socket:
        for line, given in json.load(sys.stdin):
            socket.send(json.dumps({"type": "run", "command": line}))
            for message in ({"type": "stdin", "data": given}, {"type": "stdin_close"}):
                socket.send(json.dumps(message))
            said: list[dict[str, Any]] = [json.loads(socket.recv(BOUND))]
            while said[-1]["type"] != "complete":
                said.append(json.loads(socket.recv(BOUND)))
            print(json.dumps(said))


if __name__ == "__main__":
    main()
