"""What is wrong with how a case of the fuzzer ended."""

from __future__ import annotations

import re
import signal

from tests.hostile.cases import MEMORY, Case, Ran, Target


def judge(case: Case, one: Target, ran: Ran) -> str | None:
    """A finding in one line; `None` where a case ended as promised: done, or one line and exit code 1 or 2."""
    return _ending(ran) or _side_effects(case, ran) or _reason(ran) or one.check(case, ran.code)


def _ending(ran: Ran) -> str | None:
    if ran.code in (-signal.SIGALRM, -signal.SIGXCPU):
        return f"hang: stopped after {ran.seconds:.0f} s"
    if ran.code < 0:
        return f"signal {signal.Signals(-ran.code).name}"
    if "Traceback (most recent call last)" in ran.said or ran.code not in (0, 1, 2):
        lines = [line for line in ran.said.splitlines() if line.strip()]
        where = [line.strip() for line in lines if re.match(r'\s+File ".*clearclip', line)]
        return f"traceback: {lines[-1] if lines else ran.code} [{where[-1] if where else 'elsewhere'}]"
    if ran.memory > MEMORY:
        return f"memory: {ran.memory >> 20} MiB, more than the limit of {MEMORY >> 20}"
    return None


def _side_effects(case: Case, ran: Ran) -> str | None:
    if ran.noted:
        return ran.noted[0]
    if ran.asked:
        return "asks: the address in the input was connected to"
    if ran.changed:
        return f"changes inputs: {', '.join(ran.changed[:5])}"
    left = [place.name for folder in (case.output, case.temporary) for place in folder.rglob(".clearclip-*")]
    left += [place.name for place in case.temporary.iterdir()]
    return f"leaves {left[0]}" if left else None


def _reason(ran: Ran) -> str | None:
    if ran.code and not re.search(r"(?m)^(error|failed|damaged): |^Usage: ", ran.said):
        return f"exit code {ran.code} without a reason"
    if len(re.findall(r"(?m)^error: ", ran.said)) > 1:
        return "more than one line of error"
    return None


def kind_of(name: str, wrong: str) -> str:
    """What two findings of one fault have in common: all but numbers, quoted texts and names of files."""
    plain = re.sub(r"'[^']*'|\"[^\"]*\"|/\S+|\d+", "…", wrong.split(" [File ")[0])
    place = re.search(r'/clearclip/(\S+)", (line \d+)', wrong)
    return f"{name}: {plain[:120]} {place[1] + ' ' + place[2] if place else ''}".strip()
