"""Joining: an invitation lets one person in, whoever dies or hurries on the way."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
from system.daemons import Daemon, invited, met, people, until
from system.relay import Relay

pytestmark = pytest.mark.system

CLAIMED = 2  # pieces that a joiner has sent then: the handshake's first message, and the third
WELCOMED = 2  # pieces that it was answered then: the handshake's second message, and the welcome


@contextmanager
def invitation_through_a_relay(root: Path, *guests: str) -> Iterator[tuple[list[Daemon], Relay, str]]:
    with people(root, "ana", *guests) as nodes, Relay(nodes[0].endpoint) as relay:
        nodes[0].ask("space.create", name="vecinos", pen="Ana")
        yield nodes, relay, invited(nodes[0], address=[relay.address])


def dies_behind_its_claim(guest: Daemon, relay: Relay, invitation: str) -> None:
    """The guest joins, its claim arrives, the welcome does not, and it is killed."""
    relay.answers_until = CLAIMED
    asking = Thread(target=guest.run, args=("join", "-", "--name", guest.home.name), kwargs={"given": invitation})
    asking.start()
    until("the welcome to be held back", lambda: relay.recorded and relay.recorded[-1].held)
    guest.kill()
    asking.join()
    relay.recorded[-1].cut()
    relay.answers_until = None
    guest.start()


def test_a_joiner_killed_between_claim_and_welcome_tries_again_and_is_the_same_author(tmp_path: Path) -> None:
    with invitation_through_a_relay(tmp_path, "beto") as ((ana, beto), relay, invitation):
        dies_behind_its_claim(beto, relay, invitation)
        assert beto.ask("status")["spaces"] == []
        assert ana.space["members"] == 2, "it has claimed already"
        logs = ana.space["logs"]

        beto.ask("join", invite=invitation, name="beto")
        met(ana, beto)
        assert (ana.space["members"], ana.space["logs"]) == (2, logs + 1), "its second claim, no second author"
        beto.ask("report.new", category="other", title="In at last")
        met(ana, beto)
        (report,) = ana.ask("report.list")
        assert report["author"]["name"] == "beto"


def test_a_second_claimant_is_refused_and_told_and_the_first_still_gets_in(tmp_path: Path) -> None:
    with invitation_through_a_relay(tmp_path, "beto", "carla") as ((ana, beto, carla), relay, invitation):
        dies_behind_its_claim(beto, relay, invitation)
        refused = carla.run("join", "-", given=invitation)
        assert refused.returncode == 5
        assert "somebody else has claimed this invitation" in refused.stderr
        assert carla.ask("status")["spaces"] == []
        assert ana.space["members"] == 2

        beto.ask("join", invite=invitation)
        met(ana, beto)


def test_two_who_hurry_with_one_invitation_are_never_both_in(tmp_path: Path) -> None:
    with invitation_through_a_relay(tmp_path, "beto", "carla") as ((ana, *guests), _, invitation):
        codes: dict[str, int] = {}

        def join(guest: Daemon) -> None:
            command = ("join", "-", "--name", guest.home.name, "--timeout", "2")
            codes[guest.home.name] = guest.run(*command, given=invitation).returncode

        racing = [Thread(target=join, args=(guest,)) for guest in guests]
        for runner in racing:
            runner.start()
        for runner in racing:
            runner.join()
        assert sorted(codes.values()) in ([0, 5], [0, 7])
        assert ana.space["members"] == 2
        (inside,) = [guest for guest in guests if codes[guest.home.name] == 0]
        met(ana, inside)


def test_a_joiner_killed_before_it_could_say_that_it_is_in_is_in(tmp_path: Path) -> None:
    with invitation_through_a_relay(tmp_path, "beto") as ((ana, beto), relay, invitation):
        relay.says_until = WELCOMED
        asking = Thread(target=beto.run, args=("join", "-", "--name", "beto"), kwargs={"given": invitation})
        asking.start()
        until("the welcome to be stored", lambda: beto.ask("status")["spaces"])
        beto.kill()
        asking.join()
        for recorded in relay.recorded:
            recorded.cut()
        relay.says_until = None
        beto.start()

        # Asked once more it does not claim again; it waits until it has what admits it, the space's name with it.
        assert beto.ask("join", invite=invitation)["name"] == "vecinos"
        met(ana, beto)
        assert ana.space["members"] == 2


def test_a_joiner_that_finds_nobody_says_so_and_is_let_in_as_soon_as_somebody_is_there(tmp_path: Path) -> None:
    with people(tmp_path, "ana", "beto") as (ana, beto):
        ana.ask("space.create", name="vecinos")
        invitation = invited(ana)
        ana.stop()
        told: list[str] = []

        def join() -> None:
            told.append(beto.run("join", "-", given=invitation).stderr)

        asking = Thread(target=join)
        asking.start()
        time.sleep(0.3)  # it dials at once
        ana.start()
        asking.join()
        assert "Nobody answered yet" in told[0]
        assert "“vecinos”" not in told[0], "results go to stdout"
        met(ana, beto)


def test_an_invitation_that_names_the_past_or_is_mistyped_is_refused_without_dialling(tmp_path: Path) -> None:
    with people(tmp_path, "ana", "beto") as (ana, beto), Relay(ana.endpoint) as relay:
        ana.ask("space.create", name="vecinos")
        good = invited(ana, address=[relay.address])
        changed = good[:-1] + ("q" if good[-1] != "q" else "p")
        expired = invited(ana, address=[relay.address], expires="1s")
        time.sleep(1.1)
        for invitation in (changed, good[: len(good) // 2], "", "x" * 5000, expired):
            refused = beto.run("join", "-", given=invitation)
            assert refused.returncode == 5
            assert invitation[:20] not in refused.stderr or not invitation
        assert relay.recorded == []
