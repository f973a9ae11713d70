import mmap
import sys

from slimmable.runtime.buffers import Buffer, Buffers


def test_what_is_used_stays_when_a_buffer_is_shrunk():
    buffer = Buffer(4 * mmap.PAGESIZE)
    buffer.content[:] = 7
    used = mmap.PAGESIZE + 5
    buffer.shrink(used)
    assert (buffer.content[:used] == 7).all()
    if sys.platform == "linux":  # given back: what the system hands out anew is empty
        assert not buffer.content[2 * mmap.PAGESIZE :].any()


def test_two_buffers_that_are_taken_are_not_one():
    buffers = Buffers(100)
    first, second = buffers.take(), buffers.take()
    first.content[:], second.content[:] = 1, 2
    assert (first.content == 1).all()
    buffers.give(first)
    buffers.tidy()
    assert buffers.take() is not first
