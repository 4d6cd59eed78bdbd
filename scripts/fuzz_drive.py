"""What scripts/fuzz.py and fuzz_programs.py share: seeds, checked in processes of their own."""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import selectors
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fuzz_graphs import Rejected

SECONDS = 120
TURN = 40
Check = Callable[[int], tuple[str, list[str]]]
"""Returns what a seed is, and what is wrong with it; calls `ours` before it runs what may be."""


def ours(seed: int, doing: str = "") -> None:
    """Say that a crash from here on counts, and what is about to be done."""
    print(json.dumps({"at": seed, "ours": True, "doing": doing}), flush=True)


def line(error: BaseException) -> str:
    """Return an error's text in one line."""
    return " ".join(str(error).split())[:400]


def work(seeds: Sequence[int], check: Check) -> None:
    """Check seeds, and print a JSON line before each and after."""
    warnings.simplefilter("ignore")
    faulthandler.enable()
    for seed in seeds:
        print(json.dumps({"at": seed}), flush=True)
        try:
            about, wrong = check(seed)
        except Rejected as error:
            about, wrong = f"rejected: {line(error)[:80]}", []
        print(json.dumps({"seed": seed, "about": about, "wrong": wrong}), flush=True)


def turn(script: str, seeds: range, isa: str) -> list[dict[str, Any]]:
    """Return the outcomes of seeds in processes of one instruction set."""
    found: list[dict[str, Any]] = []
    left = seeds
    while left:
        command = [sys.executable, script, "--work", f"{left.start}:{left.stop}"]
        environment = os.environ | ({"ONNX_FUSION_ISA": isa} if isa else {})
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
        )
        last, why = {"at": left.start}, None
        selector = selectors.DefaultSelector()
        selector.register(child.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(SECONDS):
                child.kill()
                why = f"took more than {SECONDS} s"
                break
            text = child.stdout.readline()
            if not text:
                break
            told = json.loads(text)
            if "seed" in told:
                found.append(told)
            else:
                last = told
        said = child.stderr.read()
        code = child.wait()
        done = bool(found) and found[-1]["seed"] == left.stop - 1
        if done and not code:
            break
        why = why or f"ended with {code}: {' '.join(said.split())[:1500]}"
        doing, counts = last.get("doing", ""), last.get("ours", False)
        about = "" if counts else "rejected: plain ONNX Runtime fails"
        wrong = [f"{why}\n{doing}".strip()] if counts else []
        found.append({"seed": last["at"], "about": about, "wrong": wrong})
        left = range(last["at"] + 1, left.stop)
    return found


def drive(
    about: str, script: str, check: Check, save: Callable[[int, Path], None] | None = None
) -> int:
    """Do what the command line says, and return the exit code: 1 if a seed is wrong."""
    parser = argparse.ArgumentParser(description=about.split("\n", 1)[0])
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--count", type=int, default=200, help="number of seeds")
    parser.add_argument("--minutes", type=float, help="start seeds until then, in place of --count")
    parser.add_argument("--isa", default="", help="instruction sets, in turn: base,avx2,avx512")
    if save is not None:
        parser.add_argument("--save", type=Path, help="folder for models that fail")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        work(range(*(int(part) for part in chosen.work.split(":"))), check)
        return 0
    isas = chosen.isa.split(",")
    start, seed, bad, good, skipped = time.monotonic(), chosen.first, 0, 0, 0
    while True:
        late = chosen.minutes and time.monotonic() - start > chosen.minutes * 60
        stop = seed + TURN if chosen.minutes else min(chosen.first + chosen.count, seed + TURN)
        if late or stop <= seed:
            break
        isa = isas[seed // TURN % len(isas)]
        for one in turn(script, range(seed, stop), isa):
            skipped += one["about"].startswith("rejected")
            good += not one["wrong"]
            bad += bool(one["wrong"])
            for why in one["wrong"]:
                print(f"seed {one['seed']} {isa} ({one['about']}): {why}", flush=True)
            if one["wrong"] and save is not None and chosen.save:
                save(one["seed"], chosen.save)
        seed = stop
    print(f"{good - skipped} seeds are right, {bad} are not, {skipped} made no model")
    return int(bad > 0)
