"""The real state machine in every schedule that fits, and in many random ones."""

import os
import random

import pytest

from krebit_proxy.core.grant import Grant
from tests.fakes.world import Server, World

SEEDS = int(os.environ.get("KREBIT_PROXY_SCHEDULES", "2000"))
MODES = ["strict", "family", "grace", "off"]


def world(mode: str, *, losable: bool = False, names: str = "AB") -> World:
    """Two processes that share a grant which is due for renewal."""
    made = World(Server(mode), losable=losable)
    held = made.server.authorize(made.now - 90)
    made.grant = Grant(1, "acme", "app", held)
    made.stored.add(held.access_token.reveal())
    for name in names:
        made.start(name)
    return made


def run(seed: int, *, losable: bool) -> World:
    """One random schedule: half an hour of faults, then a kind world."""
    dice = random.Random(seed)
    made = world(dice.choice(MODES), losable=losable, names=dice.choice(["A", "AB", "ABC"]))
    for _ in range(dice.randrange(5, 60)):
        roll = dice.random()
        name = dice.choice(list(made.processes))
        if roll < 0.04:
            made.transcript.append(f"{made.now:.1f} a 401 at {name}")
            made.demand(name, rejected=True)
        elif roll < 0.05:
            made.transcript.append(f"{made.now:.1f} setup at {name}")
            made.setup(name)
        elif roll < 0.055:
            made.transcript.append(f"{made.now:.1f} logout at {name}")
            made.logout(name)
        else:
            options = list(made.choices(faults=dice.random() < 0.4))
            if options:
                label, act = dice.choice(options)
                made.transcript.append(f"{made.now:.1f} {label}")
                act()
    made.settle()
    return made


@pytest.mark.parametrize("losable", [False, True], ids=["file", "database"])
def test_random_schedules_keep_the_rules(losable: bool) -> None:
    for seed in range(SEEDS):
        try:
            run(seed, losable=losable)
        except Exception as error:
            error.add_note(f"seed {seed}, losable {losable}")
            raise
