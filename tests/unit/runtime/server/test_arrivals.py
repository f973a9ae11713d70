"""Bodies that are still arriving share a bounded room."""

import asyncio
from types import SimpleNamespace

import pytest

from slimmable.runtime.server.bodies import Arrivals, read
from slimmable.runtime.server.refusals import Refused


def coming(chunks, gate=None):
    """A request whose body comes in chunks; the last one waits for a gate."""

    async def stream():
        for chunk in chunks[:-1]:
            yield chunk
        if gate is not None:
            await gate.wait()
        yield chunks[-1]

    return SimpleNamespace(headers={}, stream=stream)


def test_a_body_is_read_as_it_comes_and_its_room_is_free_again():
    arrivals = Arrivals(6)
    for _ in range(3):
        assert asyncio.run(read(coming([b"abc", b"", b"def"]), arrivals, most=6, seconds=9)) == b"abcdef"

    assert arrivals.held == 0


@pytest.mark.parametrize(
    ("most", "seconds", "reason"), [(3, 9, "too_large"), (9, 0.01, "too_slow")], ids=["long", "slow"]
)
def test_the_room_of_a_refused_body_is_free_again(most, seconds, reason):
    async def refused(arrivals):
        return await read(
            coming([b"ab", b"cd"], asyncio.Event() if seconds < 1 else None), arrivals, most=most, seconds=seconds
        )

    arrivals = Arrivals(4)
    with pytest.raises(Refused) as found:
        asyncio.run(refused(arrivals))

    assert (found.value.reason, arrivals.held) == (reason, 0)


def test_where_there_is_no_room_left_others_come_again_and_those_inside_go_on():
    async def crowd():
        arrivals, gate = Arrivals(8), asyncio.Event()
        first = asyncio.create_task(read(coming([b"12345", b"6"], gate), arrivals, most=9, seconds=9))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert arrivals.held == 5
        idle = asyncio.create_task(read(coming([b"", b""], gate), arrivals, most=9, seconds=9))
        with pytest.raises(Refused, match="7 bytes are arriving, expected at most 8") as refused:
            await read(coming([b"ab", b"cd"]), arrivals, most=9, seconds=9)
        assert (refused.value.status, arrivals.held) == (503, 5)
        assert await read(coming([b"abc"]), arrivals, most=9, seconds=9) == b"abc"
        gate.set()
        return await first, await idle, arrivals.held

    assert asyncio.run(crowd()) == (b"123456", b"", 0)
