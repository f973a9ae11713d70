import mmap
import sys

from slimmable.runtime.buffers import Buffer, Buffers
from slimmable.runtime.parts import Frame


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
    assert buffers.take() is first


def test_pages_of_a_spare_buffer_are_given_back_and_what_was_bound_to_it_stays():
    buffers = Buffers(4 * mmap.PAGESIZE)
    first = buffers.take()
    first.content[:] = 7
    first.bound[0] = (Frame({}, ()), object)
    buffers.give(first)
    buffers.tidy()
    again = buffers.take()
    assert not again.content.any()
    if sys.platform == "linux":  # elsewhere the buffer itself goes
        assert again is first
        assert again.bound
