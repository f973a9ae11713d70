"""The bodies of requests: read within limits, and turned into inputs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from slimmable.runtime.server.images import Preprocessing
from slimmable.runtime.server.refusals import Refused
from slimmable.runtime.server.tensors import MAGIC, from_json, from_npy
from slimmable.runtime.switchable import Input

KINDS = "an image (image/*, or multipart/form-data with one file), application/json, or .npy (application/octet-stream)"
_TENSORS = ("application/octet-stream", "application/x-npy")


async def read(request: Request, *, most: int, seconds: float) -> bytes:
    """The body, if it comes in time and is not too long; reading stops where it gets too long.

    Raises:
        Refused: It is too long, comes too slowly, or its client has gone.
    """
    announced = request.headers.get("content-length", "0")
    if not announced.isascii() or not announced.isdigit():
        raise Refused("malformed", "the length of the body is no number")
    if int(announced[:20]) > most:
        raise Refused("too_large", f"the body has {announced[:20]} bytes; expected at most {most}")
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                if len(body) + len(chunk) > most:
                    raise Refused("too_large", f"the body has more than {most} bytes; expected at most that")
                body += chunk
    except TimeoutError as error:
        raise Refused("too_slow", f"the body did not arrive within {seconds:g} s") from error
    except ClientDisconnect as error:
        raise Refused("malformed", "the body ended early") from error
    return bytes(body)


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


def is_quick(kind: str) -> bool:
    """Whether a body of this type is turned into inputs without noticeable work."""
    return kind.partition(";")[0].strip().lower() in _TENSORS


def _only_file(body: bytes, kind: str) -> bytes:
    """The content of the only file in a form."""
    parts: list[tuple[bytearray, dict[bytes, bytes]]] = []
    name, value = bytearray(), bytearray()

    def begun() -> None:
        parts.append((bytearray(), {}))

    def header_ended() -> None:
        parts[-1][1][bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    try:
        boundary = parse_options_header(kind)[1][b"boundary"]
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": begun,
                "on_part_data": lambda data, start, end: parts[-1][0].extend(data[start:end]),
                "on_header_field": lambda data, start, end: name.extend(data[start:end]),
                "on_header_value": lambda data, start, end: value.extend(data[start:end]),
                "on_header_end": header_ended,
            },
        )
        parser.write(body)
        parser.finalize()
        files = [
            content
            for content, headers in parts
            if b"filename" in parse_options_header(headers.get(b"content-disposition", b""))[1]
        ]
    except (FormParserError, LookupError, ValueError) as error:
        raise Refused("malformed", "the form cannot be read; expected multipart/form-data with one file") from error
    if len(files) != 1:
        raise Refused("malformed", f"the form has {len(files)} files; expected one")
    return bytes(files[0])
