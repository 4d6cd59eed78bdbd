"""`python -m onnx_fusion`, and the console script."""

import os
import signal
import sys

INTERRUPTED = 130


def run() -> int:
    """Run the command line; an interrupt while it is being imported is one line too."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        # Extension modules turn an exception that comes while they are imported into another one.
        signal.signal(signal.SIGINT, leave)
    try:
        from onnx_fusion.cli.main import Interrupt, main

        if not usual:
            return main()
        interrupt = Interrupt()
        signal.signal(signal.SIGINT, interrupt)
        return main(interrupt=interrupt)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def leave(*_: object) -> None:
    """End the process at once; nothing was begun yet."""
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


if __name__ == "__main__":
    raise SystemExit(run())
