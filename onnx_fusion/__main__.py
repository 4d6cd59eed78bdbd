"""`python -m onnx_fusion`, and the console script."""

import sys


def run() -> int:
    """Run the command line; an interrupt while it is being imported is one line too."""
    try:
        from onnx_fusion.cli.main import main

        return main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(run())
