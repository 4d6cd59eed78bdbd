"""Check that an optimized model computes what the original does: a front to `onnx_fusion verify`.

python scripts/validate.py ORIGINAL OPTIMIZED [--inputs X.npz] [--threads N] [--no-library]
"""

import sys

from onnx_fusion.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main(["verify", *sys.argv[1:]]))
