"""The bodies of requests: read within limits, and turned into inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from email.parser import HeaderParser

import numpy as np
from fastapi import Request
from starlette.requests import ClientDisconnect

from slimmable.runtime.server.images import Preprocessing
from slimmable.runtime.server.refusals import Refused
from slimmable.runtime.server.tensors import MAGIC, from_json, from_npy
from slimmable.runtime.switchable import Input

KINDS = "an image (image/*, or multipart/form-data with one file), application/json, or .npy (application/octet-stream)"
_LONGEST_HEAD = 4096
_TENSORS = ("application/octet-stream", "application/x-npy")


class Arrivals:
    """Room for the bodies that are still arriving; used from the event loop only.

    It counts bytes, not bodies: one that has hardly begun, and perhaps never goes on, takes nothing away from others.

    Args:
        most: Most bytes of all together.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    @contextmanager
    def begun(self) -> Iterator[bytearray]:
        """A body to be filled by :meth:`add`; its room is free again behind it."""
        body = bytearray()
        try:
            yield body
        finally:
            self.held -= len(body)
            body.clear()

    def add(self, body: bytearray, chunk: bytes) -> None:
        """Put what has come behind what was there.

        Raises:
            Refused: There is no more room.
        """
        if self.held + len(chunk) > self._most:
            raise Refused(
                "full", f"requests of {self.held} bytes are arriving, expected at most {self._most}; come again later"
            )
        self.held += len(chunk)
        body += chunk


async def read(request: Request, arrivals: Arrivals, *, most: int, seconds: float) -> bytes:
    """The body, if it comes in time and is not too long; reading stops where it gets too long.

    Raises:
        Refused: It is too long, comes too slowly, or its client has gone; or too much else is arriving.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isascii() or not announced.isdigit():
        raise Refused("malformed", "the length of the body is no number")
    if int(announced[:20]) > most:
        raise Refused("too_large", f"the body has {announced[:20]} bytes; expected at most {most}")
    try:
        with arrivals.begun() as body:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > most:
                        raise Refused("too_large", f"the body has more than {most} bytes; expected at most that")
                    arrivals.add(body, chunk)
            return bytes(body)
    except TimeoutError as error:
        raise Refused("too_slow", f"the body did not arrive within {seconds:g} s") from error
    except ClientDisconnect as error:
        raise Refused("malformed", "the body ended early") from error


def inputs_of(
    body: bytes, kind: str, inputs: Sequence[Input], preprocessing: Preprocessing | None, *, most: int, max_pixels: int
) -> list[np.ndarray]:
    """Inputs of the network from a body.

    Args:
        body: The body.
        kind: Its media type, as the request states it.
        inputs: What the network takes.
        preprocessing: How an image becomes an input; None if the network takes none.
        most: Most examples.
        max_pixels: Most pixels of an image.

    Raises:
        Refused: It is none of the kinds that are taken, or damaged, or does not fit.
    """
    essence = kind.partition(";")[0].strip().lower()
    if essence == "multipart/form-data":
        body = _only_file(body, kind)
        essence = "application/octet-stream" if body.startswith(MAGIC) else "image/*"
    if not body:
        raise Refused("malformed", f"the body is empty; expected {KINDS}")
    if essence == "application/json":
        return from_json(body, inputs, most)
    if essence in _TENSORS:
        return from_npy(body, inputs, most)
    if not essence.startswith("image/"):
        raise Refused("unsupported", f"the body is of type {essence[:100]!r}; expected {KINDS}")
    if preprocessing is None:
        raise Refused("unsupported", "the network takes no images, or its artifact does not say how; send a tensor")
    return [preprocessing(body, max_pixels=max_pixels)]


def is_tensor(kind: str) -> bool:
    """Whether a body is the memory of a tensor, which is turned into inputs without noticeable work."""
    return kind.partition(";")[0].strip().lower() in _TENSORS


def _only_file(body: bytes, kind: str) -> bytes:
    """The content of the only part of a form, if it is a file.

    The body is cut at its boundaries and nothing else of it is looked at, so that it costs the same whatever it holds.
    """
    try:
        boundary = _headers(f"Content-Type: {kind}").get_boundary("").encode("latin-1")
        # Two cuts tell one part; a third one is refused without looking for more.
        pieces = (b"\r\n" + body).split(b"\r\n--" + boundary, 3)
        head, _, content = pieces[1].partition(b"\r\n\r\n")
        if not boundary or len(head) > _LONGEST_HEAD or len(pieces) == 2:
            raise ValueError("no boundary, no headers, or no end")
        is_file = (
            _headers(head.decode("latin-1").lstrip()).get_param("filename", header="content-disposition") is not None
        )
    except Exception as error:
        # The reader of headers raises what it pleases where parameters contradict each other.
        raise Refused("malformed", "the form cannot be read; expected multipart/form-data with one file") from error
    if len(pieces) > 3 or not pieces[2].startswith(b"--"):
        raise Refused("malformed", "the form has several parts; expected one, a file")
    if not is_file:
        raise Refused("malformed", "the form has a part that is no file; expected one part, a file with its name")
    return content


def _headers(text: str) -> Message:
    return HeaderParser().parsestr(text)
