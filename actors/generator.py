"""Turns the image jobs of one shard into finished files: micro-batches in order, encoding beside the next micro-batch.

What it promises, whatever the backend does:

- every job ends in exactly one call of the sink, ``add`` or ``fail``, or `Generator.render` raises;
- out of memory halves the micro-batch, and the size that fitted is remembered for that image size;
- a micro-batch that fails is taken apart until the poison row is alone: its neighbours are rendered;
- a broken engine is nobody's row: it goes up as `BrokenEngine`, and the actor's process ends;
- memory is flat: the pixels of two micro-batches at most wait for the encoder.
"""

from __future__ import annotations

import gc
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from actors.contracts import Backend, EncodedImage, ImageJob, ImageSink, Pixels
from actors.device import is_device_lost, is_out_of_memory
from actors.errors import BrokenEngine, PromptmillError, RowError
from actors.images import ImageEncoder, SomeRowsError

_log = logging.getLogger(__name__)

_Key = tuple[int | None, int | None, bool]
_Numbered = tuple[int, ImageJob]


class Generator:
    """Renders and encodes jobs with one backend. Several shards may be rendered at once, from one thread each."""

    def __init__(self, backend: Backend, encoder: ImageEncoder, batch_rows: int, encode_threads: int) -> None:
        """Takes over the backend: nobody else may call it, for backends are not thread-safe.

        Args:
            backend: what renders.
            encoder: what makes files of pixels.
            batch_rows: images of one micro-batch, at most; fewer where memory is short.
            encode_threads: threads that encode, shared by all shards.

        Raises:
            ValueError: a count below 1.
        """
        if batch_rows < 1 or encode_threads < 1:
            raise ValueError(f"batch_rows ({batch_rows}) and encode_threads ({encode_threads}) must be at least 1")
        self._backend = backend
        self._encoder = encoder
        self._batch_rows = batch_rows
        self._fits: dict[_Key, int] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(encode_threads, thread_name_prefix="encode")

    def render(self, jobs: Sequence[ImageJob], sink: ImageSink) -> None:
        """Renders ``jobs`` and gives each result, or the reason why there is none, to ``sink`` under its index.

        Raises:
            BrokenEngine: the backend's runtime is beyond repair.
            Exception: whatever ``sink`` raised, or a `PromptmillError` of the backend. In every case no thread calls
                the sink any more once this method has ended.
        """
        waiting: deque[list[Future[None]]] = deque()
        try:
            for batch in self._micro_batches(self._checked(jobs, sink)):
                encodes: list[Future[None]] = []
                waiting.append(encodes)
                for (index, job), result in self._results(batch):
                    if isinstance(result, RowError):
                        sink.fail(index, result)
                    else:
                        encodes.append(self._pool.submit(self._finish, index, job, result, sink))
                # This micro-batch is encoded beside the next one; the one before must be done, or pixels pile up.
                while len(waiting) > 1:
                    _finish_first(waiting)
            while waiting:
                _finish_first(waiting)
        finally:
            pending = [future for encodes in waiting for future in encodes if not future.cancel()]
            wait(pending)

    def render_one(self, job: ImageJob) -> EncodedImage:
        """Renders one image again, alone: the same bytes as in its shard.

        Raises:
            RowError: the image cannot be made.
            BrokenEngine: the backend's runtime is beyond repair.
        """
        if (refusal := self._check(job)) is not None:
            raise refusal
        ((_, result),) = self._results([(0, job)])
        if isinstance(result, RowError):
            raise result
        return self._encoder.encode(result, job.image_id)

    def close(self) -> None:
        """Ends the encoding threads. No shard may be under way."""
        self._pool.shutdown()

    def _checked(self, jobs: Sequence[ImageJob], sink: ImageSink) -> list[_Numbered]:
        """The jobs that the backend says it can make; the others go to the sink."""
        makeable: list[_Numbered] = []
        for index, job in enumerate(jobs):
            if (refusal := self._check(job)) is None:
                makeable.append((index, job))
            else:
                sink.fail(index, refusal)
        return makeable

    def _check(self, job: ImageJob) -> RowError | None:
        with self._lock:
            try:
                self._backend.check(job)
            except Exception as error:  # noqa: BLE001 (sorted by _row_error)
                return _row_error(error)
        return None

    def _micro_batches(self, jobs: Sequence[_Numbered]) -> Iterator[list[_Numbered]]:
        """Groups of one size each, in the order in which the sizes first appear; rows keep their order."""
        groups: dict[_Key, list[_Numbered]] = {}
        for numbered in jobs:
            groups.setdefault(_key(numbered[1]), []).append(numbered)
        for key, group in groups.items():
            start = 0
            while start < len(group):
                # Asked anew each time: the micro-batch before may have found a smaller size that fits.
                rows = self._fits.get(key, self._batch_rows)
                yield group[start : start + rows]
                start += rows

    def _results(self, batch: list[_Numbered]) -> list[tuple[_Numbered, Pixels | RowError]]:
        """Renders a micro-batch, in as many parts as it takes, to one result a row, in order."""
        key = _key(batch[0][1])
        results: list[tuple[_Numbered, Pixels | RowError]] = []
        parts = deque([batch])
        while parts:
            part = parts.popleft()
            rows = self._fits.get(key, self._batch_rows)
            if len(part) > rows:
                parts.appendleft(part[rows:])
                part = part[:rows]
            outcome = self._attempt([job for _, job in part])
            if isinstance(outcome, list):
                results.extend(zip(part, outcome, strict=True))
            elif len(part) == 1:
                results.append((part[0], outcome))
            else:
                half = len(part) // 2
                if outcome.reason == "out_of_memory":
                    # Never more than now: another shard's thread may just have learned of a smaller size.
                    self._fits[key] = min(half, self._fits.get(key, half))
                    _log.warning(
                        "out of memory: from now on %d images of this size make a micro-batch, where "
                        "generate.batch_rows says %d", self._fits[key], self._batch_rows,
                    )  # fmt: skip
                parts.extendleft((part[half:], part[:half]))
        return results

    def _attempt(self, jobs: Sequence[ImageJob]) -> list[Pixels | RowError] | RowError:
        """Renders jobs together: one result each, or the one reason why the call as a whole failed."""
        with self._lock:
            try:
                images = self._backend.render(jobs)
            except SomeRowsError as error:
                # A backend that renders in several calls may have stopped at the first of them: then take apart.
                return error.results if len(error.results) == len(jobs) else _row_error(error)
            except Exception as error:  # noqa: BLE001 (sorted by _row_error)
                failure = _row_error(error)
            else:
                if len(images) == len(jobs):
                    return list(images)
                failure = RowError("render_failed", f"the renderer made {len(images)} images of {len(jobs)} jobs")
            # Only here, after `except`, is the traceback gone that kept the failed call's tensors alive.
            if failure.reason == "out_of_memory":
                _free_memory()
        return failure

    def _finish(self, index: int, job: ImageJob, pixels: Pixels, sink: ImageSink) -> None:
        try:
            image = self._encoder.encode(pixels, job.image_id)
        except Exception as error:  # noqa: BLE001 (a row that no codec takes must not sink its shard)
            sink.fail(index, RowError("encode_failed", f"the image could not be encoded ({type(error).__name__})"))
        else:
            sink.add(index, image)


def _row_error(error: Exception) -> RowError:
    """What a backend's exception says of its row, as a new object: the old one's traceback keeps tensors alive.

    Raises:
        BrokenEngine: no row's fault, and no other row will fare better in this process.
        PromptmillError: the backend itself says that the job must end.
    """
    if isinstance(error, (BrokenEngine, PromptmillError)):
        raise error
    if isinstance(error, RowError):
        return RowError(error.reason, error.detail)
    if is_out_of_memory(error):
        return RowError("out_of_memory", "this image alone does not fit into memory: ask for a smaller one")
    if is_device_lost(error):
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        raise BrokenEngine(f"the renderer's device is lost: {first_line[:200]}") from error
    # The message of a model's error may quote the prompt: only its type is safe to store and to print.
    return RowError("render_failed", f"the renderer failed on this row alone ({type(error).__name__})")


def _free_memory() -> None:
    import torch  # Here, for drivers know this module and run no model.

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _key(job: ImageJob) -> _Key:
    """What the jobs of one call must have in common: the size, and whether there is something to steer away from."""
    return job.width, job.height, job.negative_text is not None


def _finish_first(waiting: deque[list[Future[None]]]) -> None:
    """Waits for the oldest micro-batch's encodes; if one raises, all stay in ``waiting``, to be stopped together."""
    for future in waiting[0]:
        future.result()
    waiting.popleft()
