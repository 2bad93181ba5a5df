"""Recent message ids."""

from hypothesis import given
from hypothesis import strategies as st

from segment_async.devserver._ids import RecentIds


def test_an_id_is_known_until_enough_others_arrived() -> None:
    ids = RecentIds(3)
    assert not any(ids.seen_before(message_id) for message_id in "abc")
    assert ids.seen_before("a")
    assert not any(ids.seen_before(message_id) for message_id in "defgh")
    assert not ids.seen_before("a")


def test_clearing_forgets_them_all() -> None:
    ids = RecentIds(3)
    for message_id in "abcd":
        ids.seen_before(message_id)
    ids.clear()
    assert not any(ids.seen_before(message_id) for message_id in "abcd")


@given(st.lists(st.sampled_from([str(number) for number in range(30)]), max_size=200), st.integers(1, 8))
def test_it_remembers_the_last_ones_and_at_most_twice_as_many(sent: list[str], count: int) -> None:
    ids = RecentIds(count)
    for place, message_id in enumerate(sent):
        others = list(dict.fromkeys(reversed(sent[:place])))[:count]
        known = ids.seen_before(message_id)
        assert known or message_id not in others
        assert not known or message_id in sent[:place]
        assert len(ids) <= 2 * count
