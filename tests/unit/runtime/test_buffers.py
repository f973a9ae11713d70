import mmap

import numpy as np

from slimmable.runtime.buffers import Buffers, shrink


def test_what_is_used_stays_when_a_buffer_is_shrunk():
    buffer = Buffers(4 * mmap.PAGESIZE).take()
    buffer[:] = 7
    used = mmap.PAGESIZE + 5
    shrink(buffer, used)
    assert (buffer[:used] == 7).all()
    assert set(np.unique(buffer[2 * mmap.PAGESIZE :])) <= {0, 7}  # given back where the system can


def test_two_buffers_that_are_taken_are_not_one():
    buffers = Buffers(100)
    first, second = buffers.take(), buffers.take()
    first[:], second[:] = 1, 2
    assert (first == 1).all()
    buffers.give(first)
    buffers.tidy()
    assert buffers.take() is not first
