# Sourced by the other scripts, from the project's folder: leaves $python, the interpreter of a
# virtual environment (the active one, else .venv, made if it is not there), with the project and
# the extras named by $1 ("" or "[test]") installed.

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
  echo "onnx_fusion needs Python 3.10 or newer; set PYTHON to one" >&2
  exit 1
fi
if "$python" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
  if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    echo "making a virtual environment in .venv" >&2
    # Where Python comes without ensurepip (Debian's python3 without python3-venv), virtualenv does it.
    "$python" -m venv .venv >/dev/null 2>&1 || {
      rm -rf .venv
      "$python" -m pip install --quiet --target build/virtualenv virtualenv
      PYTHONPATH=build/virtualenv "$python" -m virtualenv --quiet .venv
    }
  fi
  python=$PWD/.venv/bin/python
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
echo "building and installing onnx_fusion" >&2
"$python" -m pip install --quiet ".$1"
