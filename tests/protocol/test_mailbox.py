"""Mailboxes: who knows the secret finds the topic and may append; a relay that changes its story is found out."""

from hashlib import shake_256

import pytest

from protocol import keys, mailbox
from protocol.limits import MEETING_LANES
from protocol.mailbox import BEGINNING, HOUR_SECONDS, WEEK_SECONDS, Cursor, may_append, message_hash, token, topic_of

SECRET, OTHER_SECRET = b"\x07" * 32, b"\x08" * 32
RELAY, OTHER_RELAY = b"\x01" * 32, b"\x02" * 32
WEEK = 2967
MESSAGE = b"sealed" * 100


def after(*messages: bytes) -> Cursor:
    """The cursor of somebody who has read these."""
    cursor = BEGINNING
    for message in messages:
        cursor = cursor.behind(message)
    return cursor


def test_whoever_knows_the_secret_derives_the_same_topic_and_may_append() -> None:
    ana, beto = topic_of(SECRET, RELAY, WEEK), topic_of(SECRET, RELAY, WEEK)
    assert ana == beto
    assert may_append(beto.key, message_hash(MESSAGE), ana.sign(MESSAGE))


def test_nothing_of_another_secret_relay_week_or_purpose_is_the_same() -> None:
    names = [
        mailbox.topic_of(secret, relay, week).key
        for secret in (SECRET, OTHER_SECRET)
        for relay in (RELAY, OTHER_RELAY)
        for week in (WEEK - 1, WEEK, WEEK + 1)
    ]
    names += [
        mailbox.welcome_topic(secret, relay).key for secret in (SECRET, OTHER_SECRET) for relay in (RELAY, OTHER_RELAY)
    ]
    names += [token(SECRET, RELAY, hour, lane) for hour in (WEEK, WEEK + 1) for lane in range(MEETING_LANES)]
    assert len(names) == len(set(names))


def test_a_signature_is_good_for_one_message_in_one_topic_at_one_relay() -> None:
    signature = topic_of(SECRET, RELAY, WEEK).sign(MESSAGE)
    for key in (topic_of(SECRET, OTHER_RELAY, WEEK).key, topic_of(SECRET, RELAY, WEEK + 1).key):
        assert not may_append(key, message_hash(MESSAGE), signature)
    assert not may_append(topic_of(SECRET, RELAY, WEEK).key, message_hash(MESSAGE + b"\0"), signature)


def test_who_knows_only_the_name_of_a_topic_cannot_append() -> None:
    topic, stranger = topic_of(SECRET, RELAY, WEEK), topic_of(OTHER_SECRET, RELAY, WEEK)
    forged = mailbox.Topic(topic.key, stranger.secret)
    assert not may_append(topic.key, message_hash(MESSAGE), forged.sign(MESSAGE))
    assert not may_append(topic.key, message_hash(MESSAGE), bytes(64))


@pytest.mark.parametrize("small", [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")])
def test_a_topic_of_small_order_lets_nothing_in(small: bytes) -> None:
    for signature in (bytes(64), small + bytes(32), (1).to_bytes(32, "little") + bytes(32)):
        assert not may_append(small, message_hash(MESSAGE), signature)


def test_an_authors_signature_lets_nothing_in_and_a_topics_signs_no_entry() -> None:
    topic = topic_of(SECRET, RELAY, WEEK)
    bound = keys.hash_of(b"p2pnode app 1", topic.key + message_hash(MESSAGE))
    assert keys.verified(topic.key, keys.SIGN_APPEND, bound, topic.sign(MESSAGE))
    assert not keys.verified(topic.key, keys.SIGN_ENTRY, bound, topic.sign(MESSAGE))
    assert not may_append(topic.key, message_hash(MESSAGE), keys.sign(topic.secret, keys.SIGN_ENTRY, bound))


# The story of a topic


def test_a_cursor_tells_what_was_read_and_in_which_order() -> None:
    stories = [(), (b"a",), (b"b",), (b"a", b"b"), (b"b", b"a"), (b"ab",), (b"a", b"b", b"c")]
    assert len({after(*story) for story in stories}) == len(stories)
    assert after(b"a", b"b", b"c").number == 3


def test_a_relay_restored_from_a_copy_and_filled_again_does_not_match_the_cursor() -> None:
    ours = after(b"1", b"2", b"3")
    restored = after(b"1", b"2")
    assert restored.number < ours.number  # as long as it is shorter, its number shows it
    assert ours != restored.behind(b"another")  # and later its hash
    assert ours == restored.behind(b"3")


def test_two_readers_who_were_told_two_stories_see_it_in_what_the_other_has_appended() -> None:
    told_ana, told_beto = after(b"1", b"2"), after(b"1", b"two")
    seen_by_ana = told_ana  # Beto reads this in a message of hers
    assert (seen_by_ana.number, seen_by_ana.hash) != (told_beto.number, told_beto.hash)
    assert seen_by_ana.number == told_beto.number


# Time


def test_weeks_and_hours_begin_everywhere_at_the_same_moment() -> None:
    assert mailbox.week_of(WEEK * WEEK_SECONDS) == mailbox.week_of((WEEK + 1) * WEEK_SECONDS - 0.001) == WEEK
    assert mailbox.week_of((WEEK + 1) * WEEK_SECONDS) == WEEK + 1
    assert mailbox.hour_of(7 * HOUR_SECONDS) == mailbox.hour_of(8 * HOUR_SECONDS - 0.001) == 7


def test_a_clock_before_1970_is_no_exception() -> None:
    week, hour = mailbox.week_of(-1.0), mailbox.hour_of(-1.0)
    assert (week, hour) == (-1, -1)
    assert topic_of(SECRET, RELAY, week) != topic_of(SECRET, RELAY, 0)
    assert token(SECRET, RELAY, hour, 0) != token(SECRET, RELAY, 0, 0)


# What shows


def test_the_private_half_of_a_topic_does_not_show_when_printed() -> None:
    topic = topic_of(SECRET, RELAY, WEEK)
    assert repr(topic.secret) not in repr(topic)
    assert topic.secret.hex() not in repr(topic)


def test_names_and_tokens_look_random() -> None:
    secrets = [shake_256(str(n).encode()).digest(32) for n in range(64)]
    for made in (
        [token(secret, RELAY, 7, 0) for secret in secrets],
        [topic_of(secret, RELAY, WEEK).sign(MESSAGE)[:32] for secret in secrets],
    ):
        ones, zeros = 2**256 - 1, 0
        for value in made:
            ones, zeros = ones & int.from_bytes(value, "big"), zeros | int.from_bytes(value, "big")
        assert (ones, zeros) == (0, 2**256 - 1)
