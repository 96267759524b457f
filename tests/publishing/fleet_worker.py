"""A process of a fleet: ``target requests mode``; it counts, publishes and then ends as told.

``wait`` publishes, says so on stdout and waits to be killed; a line on stdin is one more request. ``quit`` ends
as a process does.
"""

import sys

from fleet_doubles import Engine


def main():
    target, requests, mode = sys.argv[1:]
    engine = Engine(target).serve(int(requests))
    if mode == "quit":
        return engine.publisher.close()
    engine.publish()
    print("ready", flush=True)
    for _ in sys.stdin:
        engine.serve(1).publish()
        print("ready", flush=True)
    return None


if __name__ == "__main__":
    main()
