"""The HTTP side: predictions, the width, figures, health."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from slimmable.errors import DeploymentError, WidthError
from slimmable.runtime.controller import AdaptiveModel
from slimmable.runtime.server.answers import answer, encoded, is_quick, with_head
from slimmable.runtime.server.batching import Batcher, Job
from slimmable.runtime.server.bodies import Arrivals, inputs_of, is_tensor, read
from slimmable.runtime.server.images import Preprocessing
from slimmable.runtime.server.refusals import Refused
from slimmable.runtime.server.settings import Settings
from slimmable.runtime.window import Finished

_SMALL = 4096
_LARGEST = 16
"""As many of the largest bodies as this may be arriving at once."""
_WORKERS = 2

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class _Gate:
    """Who may come in: at most so many at once, and nobody once it closes. Used from the event loop only.

    A request passes when its body is complete: one that hardly arrives must not hold a place that others could use.
    """

    def __init__(self, model: AdaptiveModel, most: int) -> None:
        self._metrics, self._most = model.metrics, most
        self.inside = 0
        self.closing = False

    def look(self) -> None:
        """Pass on nobody for whom there is no place now, before more is read."""
        if self.closing:
            raise Refused("closing", "the server is shutting down")
        if self.inside >= self._most:
            raise Refused("full", f"{self.inside} requests are being answered, as many as are taken; come again later")

    @contextmanager
    def passed(self) -> Iterator[None]:
        self.look()
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self.inside += change
        self._metrics.waiting(self.inside)


class _Service:
    """What the routes share."""

    def __init__(self, model: AdaptiveModel, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.gate = _Gate(model, settings.queue)
        self.arrivals = Arrivals(_LARGEST * settings.max_body_bytes)
        self.batcher = Batcher(model, max_batch=settings.max_batch, max_wait=settings.max_wait_ms / 1e3)
        self.preprocessing = Preprocessing.of(model.artifact.preprocessing, model.artifact.inputs)
        self.workers = ThreadPoolExecutor(_WORKERS, "slimmable-work")

    async def predict(self, request: Request, top: int, deadline_ms: float | None) -> bytes:
        self.gate.look()
        due = None if deadline_ms is None else self.model.now() + deadline_ms / 1e3
        body = await self._read(request, self.settings.max_body_bytes)
        with self.gate.passed():
            return await self._answered(body, request.headers.get("content-type", ""), top, due)

    async def _answered(self, body: bytes, kind: str, top: int, due: float | None) -> bytes:
        """The answer to a body; its latency begins when it is complete, for no width makes a client send faster."""
        model = self.model
        arrived = model.now()
        inputs = await self._worked(is_tensor(kind), self._inputs, body, kind)
        job = Job(inputs=inputs, queued=model.now(), due=due)
        part = await asyncio.wrap_future(self.batcher.submit(job))
        found = await self._worked(is_quick(part.outputs), answer, part.outputs, model.artifact.labels, top)
        done = Finished(
            index=part.run.index,
            arrived=arrived,
            queued=job.queued,
            begun=part.run.begun,
            ended=part.run.ended,
            answered=model.now(),
            examples=job.examples,
            together=part.together,
        )
        model.observe(done, certain=part.run.certain)
        return with_head({"width": model.name(done.index), "milliseconds": round(1e3 * done.latency, 3)}, found)

    async def _worked(self, quick: bool, work: Callable[..., _T], *given: Any) -> _T:
        """What some work gives; unless it is quick a thread does it, so that others are answered meanwhile."""
        if quick:
            return work(*given)
        return await asyncio.get_running_loop().run_in_executor(self.workers, work, *given)

    def state(self) -> dict[str, Any]:
        state = self.model.state
        switches = [
            {
                "seconds_ago": round(self.model.now() - each.at, 3),
                "from": self.model.name(each.source),
                "to": self.model.name(each.target),
                "reason": each.reason,
            }
            for each in state.switches
        ]
        rest = {key: value for key, value in vars(state).items() if key != "switches"}
        return {**rest, "in_flight": self.gate.inside, "switches": switches}

    async def pin(self, request: Request) -> dict[str, Any]:
        body = await self._read(request, _SMALL)
        try:
            width = json.loads(body)["width"]
        except (ValueError, LookupError, TypeError, RecursionError):
            width = ...
        if width is None:
            self.model.unpin()
        elif isinstance(width, str):
            try:
                # Building takes a while; the width before serves meanwhile.
                self.model.pin(width, wait=False)
            except (WidthError, DeploymentError) as error:
                raise Refused("malformed", str(error)) from error
        else:
            raise Refused("malformed", 'expected {"width": "NAME"}, or {"width": null} to let the policy choose')
        return self.state()

    async def _read(self, request: Request, most: int) -> bytes:
        return await read(request, self.arrivals, most=most, seconds=self.settings.read_seconds)

    def _inputs(self, body: bytes, kind: str) -> list[Any]:
        settings = self.settings
        return inputs_of(
            body,
            kind,
            self.model.artifact.inputs,
            self.preprocessing,
            most=settings.max_batch,
            max_pixels=settings.max_pixels,
        )

    @asynccontextmanager
    async def lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        self.model.watch(self.batcher.waiting)
        self.batcher.start()
        try:
            yield
        finally:
            self.gate.closing = True
            drained = await asyncio.to_thread(self.batcher.close, self.settings.drain_seconds)
            if not drained:
                _log.error("requests were still waiting after %g s", self.settings.drain_seconds)
            self.workers.shutdown(wait=False)
            self.model.watch(tuple)


def create_app(model: AdaptiveModel, *, settings: Settings | None = None) -> FastAPI:
    """An ASGI application that answers requests with a model.

    * ``POST /predict``: an image file (raw, or in a form), or a tensor (JSON, or numpy's ``.npy``). Answers with the
      likeliest classes if the artifact has labels, or with raw outputs. ``?top=3`` says how many classes,
      ``?deadline_ms=50`` that this request has so much time.
    * ``GET /width``: what the controller does; ``PUT`` or ``POST`` ``{"width": "0.5"}`` pins a width, null unpins it.
    * ``GET /metrics``: figures for Prometheus, if the model has any.
    * ``GET /health``: whether requests are taken.

    Everything wrong with a request is answered by a status from 400 to 499 and ``{"error": ...}``; 503 says that the
    queue is full, or that the server is shutting down, 500 that the network runs on zeros as little as on the request.

    Args:
        model: What answers; it stays open.
        settings: How.

    Raises:
        DeploymentError: The artifact's preprocessing does not fit its input.
    """
    settings = settings or Settings()
    service = _Service(model, settings)
    app = FastAPI(title="slimmable", lifespan=service.lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service = service

    @app.post("/predict")
    async def predict(
        request: Request,
        top: Annotated[int, Query(ge=1, le=1000)] = settings.top,
        deadline_ms: Annotated[float | None, Query(gt=0, le=1e6, allow_inf_nan=False)] = None,
    ) -> Response:
        return _written(await service.predict(request, top, deadline_ms))

    @app.get("/width")
    async def width() -> Response:
        return _json(service.state())

    @app.api_route("/width", methods=["PUT", "POST"])
    async def pin(request: Request) -> Response:
        return _json(await service.pin(request))

    @app.get("/metrics")
    async def metrics() -> Response:
        page = model.metrics.page()
        return Response(page[0], media_type=page[1]) if page else _json({"error": "no metrics are kept"}, 404)

    @app.get("/health")
    async def health() -> Response:
        status = "closing" if service.gate.closing else "ok"
        return _json({"status": status, "in_flight": service.gate.inside}, 503 if service.gate.closing else 200)

    _answer_errors(app, model)
    return app


def _answer_errors(app: FastAPI, model: AdaptiveModel) -> None:
    """Say what is wrong in the same form everywhere."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> Response:
        model.metrics.rejected(error.reason)
        return _json({"error": str(error)}, error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def unknown(_: Request, error: HTTPException) -> Response:
        return _json({"error": str(error.detail)}, error.status_code, dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        model.metrics.rejected("malformed")
        faults = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        return _json({"error": "; ".join(faults)}, 422)

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> Response:
        model.metrics.failed()
        # Starlette raises it again behind the answer, for the server's log.
        return _json({"error": "the request could not be answered"}, 500)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return _written(encoded(value), status, headers)


def _written(text: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(text, status, headers, "application/json")
