"""`python -m onnx_fusion`."""

from onnx_fusion.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
