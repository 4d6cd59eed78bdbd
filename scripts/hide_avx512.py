"""Copy ONNX Runtime and OpenVINO so that they see no AVX-512: what AVX2 machines run, timed here.

    python scripts/hide_avx512.py FOLDER

Every cpuid instruction in the copies' libraries becomes one that is undefined; a library that is
loaded first answers it, without the bits of AVX-512 (hide_avx512.c). What is printed then makes
this shell measure as on such a machine, this project's kernels with it, for scripts/bench.py,
scripts/ship_latency.py and `optimize --tune`. OpenVINO is the peers' (scripts/bench.py --help).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_peers import environment  # noqa: E402

CPUID, UNDEFINED = b"\x0f\xa2", b"\x0f\x0b"
_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\s+0f a2\s+cpuid", re.MULTILINE)
_SECTION = re.compile(r"^\s*\[\s*\d+\]\s+\S+\s+PROGBITS\s+(\w+)\s+(\w+)\s+(\w+)", re.MULTILINE)


def main() -> int:
    """Make the copies, print what uses them, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the copies go; it must not exist")
    folder = parser.parse_args().folder.resolve()
    if folder.exists():
        print(f"{folder}: is there already; name a new folder", file=sys.stderr)
        return 2
    for package in packages():
        copy = folder / package.name
        shutil.copytree(package, copy)
        hidden = sum(hide(library) for library in copy.rglob("*.so*") if library.is_file())
        print(f"# {copy}: {hidden} cpuid instructions")
    answers = folder / "hide_avx512.so"
    source = ROOT / "scripts" / "hide_avx512.c"
    subprocess.run(["cc", "-O2", "-shared", "-fPIC", str(source), "-o", str(answers)], check=True)
    print(f"export PYTHONPATH={shlex.quote(str(folder))}:$PYTHONPATH")
    print(f"export LD_PRELOAD={shlex.quote(str(answers))}")
    print("export ONNX_FUSION_ISA=avx2")
    return 0


def packages() -> Iterator[Path]:
    """Yield the folders of the packages that look for AVX-512."""
    found = importlib.util.find_spec("onnxruntime")
    if found is not None and found.origin is not None:
        yield Path(found.origin).parent
    yield from environment().glob("lib/python*/site-packages/openvino")


def hide(library: Path) -> int:
    """Make the library's cpuid instructions undefined, and return how many there are."""
    sections = [tuple(int(part, 16) for part in match) for match in _SECTION.findall(
        listing("readelf", "-SW", library))]  # fmt: skip
    content = bytearray(library.read_bytes())
    addresses = [int(one, 16) for one in _INSTRUCTION.findall(listing("objdump", "-d", library))]
    for address in addresses:
        start, offset, _ = next(s for s in sections if s[0] <= address < s[0] + s[2])
        place = slice(address - start + offset, address - start + offset + len(CPUID))
        if content[place] != CPUID:
            raise ValueError(f"{library}: no cpuid at {address:#x}, where objdump sees one")
        content[place] = UNDEFINED
    if addresses:
        library.write_bytes(content)
    return len(addresses)


def listing(tool: str, option: str, library: Path) -> str:
    """Return what a tool of binutils prints of a library."""
    return subprocess.run([tool, option, str(library)], capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
