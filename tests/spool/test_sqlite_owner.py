"""A spool belongs to one write key and host: messages never reach a source that they were not meant for."""

import asyncio

import pytest

from segment_async.spool import SpoolInspector, SpoolUnavailable, SQLiteSpool

from .contract import DELIVERED, append, first_read, has_nothing_to_read, read_ids, settle_all

ONE, OTHER = "1" * 64, "2" * 64


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool" / "analytics.db"


def run(path, fingerprint, part=None, **options):
    async def life():
        spool = SQLiteSpool(path, **{"check_interval": 0.02, **options})
        if fingerprint is not None:
            spool.claim(fingerprint)
        try:
            await (append(spool, "a") if part is None else part(spool))
            return spool.statistics()
        finally:
            await spool.aclose()

    return asyncio.run(life())


def test_another_key_is_refused_and_told_both_ways_out(path):
    run(path, ONE)
    with pytest.raises(ValueError) as caught:
        SQLiteSpool(path).claim(OTHER)
    text = str(caught.value)
    assert f"the spool {path} belongs to another write key or host" in text
    assert "give this client another path" in text
    assert "key_rotated=True" in text
    assert f"segment-async spool rotate-key {path}" in text
    assert ONE not in text
    assert OTHER not in text
    assert run(path, ONE, first_read).recovered == 1


def test_claiming_writes_nothing_and_a_spool_that_nothing_was_written_to_belongs_to_no_key(path):
    SQLiteSpool(path).claim(ONE)
    assert not path.parent.exists()
    run(path, None)
    SQLiteSpool(path).claim(ONE)
    SQLiteSpool(path).claim(OTHER)


def test_the_owner_is_known_though_the_lock_file_is_gone(path):
    run(path, ONE)
    path.with_name(path.name + ".lock").unlink()
    with pytest.raises(ValueError, match="belongs to another write key or host"):
        SQLiteSpool(path).claim(OTHER)


def test_the_owner_survives_damage(path):
    run(path, ONE)
    content = bytearray(path.read_bytes())
    content[100:] = bytes(len(content) - 100)
    path.write_bytes(content)
    run(path, None)
    with pytest.raises(ValueError, match="belongs to another write key or host"):
        SQLiteSpool(path).claim(OTHER)


def test_of_two_clients_in_one_process_the_second_is_refused(path):
    async def main():
        one = SQLiteSpool(path)
        one.claim(ONE)
        await append(one, "a")
        with pytest.raises(ValueError, match="belongs to another"):
            SQLiteSpool(path).claim(OTHER)
        with pytest.raises(ValueError, match="belongs to another"):
            one.claim(OTHER)
        # The same key is welcome, and so is the same object for two clients with one key.
        one.claim(ONE)
        two = SQLiteSpool(path)
        two.claim(ONE)
        await append(two, "b")
        await one.aclose()
        await two.aclose()

    asyncio.run(main())


def test_two_that_claim_before_anything_is_written_do_not_mix(path):
    async def main():
        one, other = SQLiteSpool(path, check_interval=0.02), SQLiteSpool(path, check_interval=0.02)
        one.claim(ONE)
        other.claim(OTHER)
        await append(one, "a")
        with pytest.raises(SpoolUnavailable, match="belongs to another write key or host"):
            await append(other, "b")
        await one.aclose()
        with pytest.raises(SpoolUnavailable, match="belongs to another write key or host"):
            await other.read(10, 1000)
        await other.aclose()

    asyncio.run(main())


def test_a_client_that_has_only_read_owns_the_spool(path):
    """Else two clients store messages beside each other, and after that neither may start again."""

    async def part(spool):
        await first_read(spool)
        with pytest.raises(ValueError, match="belongs to another write key or host"):
            SQLiteSpool(path).claim(OTHER)

    run(path, ONE, part)


def test_the_shard_of_another_key_is_not_adopted(path):
    """As if both had opened the path at the same moment."""
    elsewhere = path.parent.with_name("elsewhere") / path.name
    run(elsewhere, OTHER)

    async def part(spool):
        await append(spool, "ours")
        elsewhere.rename(path.with_name(path.name + ".1"))
        assert await read_ids(spool) == ["ours"]
        for _ in range(300):
            await spool.settle([], DELIVERED)
        assert await has_nothing_to_read(spool)
        assert spool.statistics().recovered == 0

    run(path, ONE, part, check_interval=0.001)
    with pytest.raises(ValueError, match="belongs to another write key or host"):
        SQLiteSpool(path).claim(OTHER)


def test_a_rotated_key_takes_over_for_one_start(path):
    run(path, ONE)
    assert run(path, OTHER, lambda spool: append(spool, "b"), key_rotated=True).pending == 2
    with pytest.raises(ValueError):
        run(path, ONE)
    assert run(path, OTHER, first_read).recovered == 2


def test_a_rotated_key_takes_over_parts_with_nothing_left_in_them(path):
    async def leave(spool):
        other = SQLiteSpool(path)
        other.claim(ONE)
        await append(spool, "a")
        await append(other, "b")
        for each in (spool, other):
            await settle_all(each, 1)
        await other.aclose()

    run(path, ONE, leave)
    run(path, OTHER, first_read, key_rotated=True)
    assert run(path, OTHER, first_read).pending == 0
    with pytest.raises(ValueError):
        run(path, ONE)


@pytest.mark.parametrize("given", ["no", "0", 1, None])
def test_whether_a_key_was_rotated_is_true_or_false(path, given):
    with pytest.raises(ValueError, match="key_rotated must be True or False"):
        SQLiteSpool(path, key_rotated=given)


def test_a_rotated_key_by_an_inspector(path):
    run(path, ONE)
    SpoolInspector(path).rotate_key()
    assert run(path, OTHER, lambda spool: append(spool, "b")).recovered == 1
    with pytest.raises(ValueError):
        run(path, ONE)


def test_a_key_is_not_rotated_under_a_running_process(path):
    async def part(spool):
        await append(spool, "a")
        with pytest.raises(SpoolUnavailable, match=r"a process uses .*: stop it before the key is rotated"):
            SpoolInspector(path).rotate_key()

    run(path, ONE, part)


@pytest.mark.parametrize("fingerprint", ["", "x" * 129])
def test_a_fingerprint_has_a_length(path, fingerprint):
    with pytest.raises(ValueError, match="a fingerprint has 1 to 128 characters"):
        SQLiteSpool(path).claim(fingerprint)
