"""The generator's promises, kept against a backend that fails in every way a model can."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from actors.contracts import EncodedImage, ImageJob, Pixels
from actors.errors import BrokenEngine, RowError, UserError
from actors.generator import Generator
from actors.images import ImageEncoder, to_pixels
from actors.marks import read_marks

SECRET = "a prompt that nobody may print"


def job(number: int, *, width: int | None = 8, height: int | None = 8, negative: str | None = None) -> ImageJob:
    return ImageJob(f"id-{number}", f"{SECRET} {number}", negative, number, width, height)


class Backend:
    """Paints each image in the colour of its seed; ``trouble`` is called first and may raise."""

    def __init__(self, trouble: Callable[[Sequence[ImageJob]], None] = lambda jobs: None) -> None:
        self.trouble = trouble
        self.calls: list[list[int]] = []
        self.inside = 0

    def check(self, job: ImageJob) -> None:
        if job.width == 7:
            raise RowError("bad_size", "7 is odd")
        if job.width == 9:
            raise KeyError(job.text)

    def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
        assert self.inside == 0, "two threads are in the backend"
        self.inside += 1
        try:
            self.calls.append([job.seed for job in jobs])
            self.trouble(jobs)
            return [np.full((job.height or 8, job.width or 8, 3), job.seed % 256, np.uint8) for job in jobs]
        finally:
            self.inside -= 1


class Sink:
    """Remembers what came, and that nothing came twice."""

    def __init__(self, broken_at: int | None = None, wait: Callable[[int], object] = lambda index: None) -> None:
        self.images: dict[int, EncodedImage] = {}
        self.errors: dict[int, RowError] = {}
        self.broken_at, self.wait = broken_at, wait
        self.lock = threading.Lock()
        self.closed = False
        self.late = 0

    def add(self, index: int, image: EncodedImage) -> None:
        self.wait(index)
        with self.lock:
            self.late += self.closed
            if index == self.broken_at:
                raise OSError("no space left")
            assert index not in self.images
            assert index not in self.errors
            self.images[index] = image

    def fail(self, index: int, error: RowError) -> None:
        with self.lock:
            self.late += self.closed
            assert index not in self.images
            assert index not in self.errors
            assert SECRET not in str(error)
            self.errors[index] = error

    def reasons(self) -> dict[int, str]:
        return {index: error.reason for index, error in self.errors.items()}


def make(backend: Backend, rows: int = 8, threads: int = 2) -> Generator:
    return Generator(backend, ImageEncoder("png", 90), rows, threads)


def run(backend: Backend, jobs: Sequence[ImageJob], rows: int = 8) -> Sink:
    sink = Sink()
    make(backend, rows).render(jobs, sink)
    sink.closed = True
    assert sorted([*sink.images, *sink.errors]) == list(range(len(jobs)))
    for index, image in sink.images.items():
        assert read_marks(image.data).image_id == jobs[index].image_id
    return sink


def test_every_job_ends_once_in_micro_batches_in_order():
    backend = Backend()
    sink = run(backend, [job(number) for number in range(20)])
    assert backend.calls == [list(range(8)), list(range(8, 16)), list(range(16, 20))]
    assert len(sink.images) == 20
    assert (sink.images[3].width, sink.images[3].height) == (8, 8)


def test_no_jobs_are_no_work():
    backend = Backend()
    run(backend, [])
    assert backend.calls == []


def test_one_micro_batch_has_one_size_and_one_kind_of_guidance():
    kinds = [{}, {"width": 16}, {"negative": "blur"}, {"height": None}]
    jobs = [job(number, **kinds[number % 4]) for number in range(16)]
    backend = Backend()
    sink = run(backend, jobs, rows=3)
    assert len(sink.images) == 16
    for call in backend.calls:
        assert len({seed % 4 for seed in call}) == 1
        assert call == sorted(call)
    assert backend.calls[0] == [0, 4, 8]  # groups come in the order in which their first row does


def test_what_the_backend_refuses_is_a_reject_and_is_never_rendered():
    backend = Backend()
    sink = run(backend, [job(0), job(1, width=7), job(2, width=9)])
    assert sink.reasons() == {1: "bad_size", 2: "render_failed"}
    assert backend.calls == [[0]]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_goes_on_and_is_remembered(error):
    def only_three_fit(jobs: Sequence[ImageJob]) -> None:
        if len(jobs) > 3:
            raise error

    backend = Backend(only_three_fit)
    sink = run(backend, [job(number) for number in range(20)])
    assert not sink.errors
    sizes = [len(call) for call in backend.calls]
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]  # 8 and 4 failed; 2 fits and stays


def test_where_memory_is_short_the_waiting_pixels_are_few_too():
    def only_one_fits(jobs: Sequence[ImageJob]) -> None:
        if len(jobs) > 1:
            raise torch.OutOfMemoryError("out of memory")
        ahead.append(jobs[0].seed - len(sink.images))

    ahead: list[int] = []
    sink = Sink(wait=lambda index: time.sleep(0.005))
    make(Backend(only_one_fits), rows=8, threads=1).render([job(number) for number in range(24)], sink)
    assert len(sink.images) == 24
    assert max(ahead[-8:]) <= 1


def test_what_one_size_learned_of_memory_does_not_bind_another():
    def big_ones_do_not_fit(jobs: Sequence[ImageJob]) -> None:
        if len(jobs) > 1 and jobs[0].width == 64:
            raise torch.OutOfMemoryError("out of memory")

    backend = Backend(big_ones_do_not_fit)
    sink = run(
        backend, [job(number, width=64) for number in range(4)] + [job(number) for number in range(4, 8)], rows=4
    )
    assert not sink.errors
    assert [len(call) for call in backend.calls] == [4, 2, 1, 1, 1, 1, 4]


def test_one_image_that_fits_nowhere_is_a_reject_and_the_rest_goes_on():
    def number_five_is_huge(jobs: Sequence[ImageJob]) -> None:
        if any(job.seed == 5 for job in jobs):
            raise torch.OutOfMemoryError("out of memory")

    sink = run(Backend(number_five_is_huge), [job(number) for number in range(8)])
    assert sink.reasons() == {5: "out_of_memory"}
    assert len(sink.images) == 7


def test_a_real_allocation_that_the_cpu_refuses_counts_as_out_of_memory():
    def allocate(jobs: Sequence[ImageJob]) -> None:
        torch.empty(2**60 if len(jobs) > 1 else 1, dtype=torch.uint8)

    assert not run(Backend(allocate), [job(0), job(1)]).errors


@pytest.mark.parametrize("poison", [{0}, {7}, {2, 3}, {1, 6, 12}, set(range(13))])
def test_poison_rows_are_found_and_their_neighbours_are_rendered(poison):
    def fail(jobs: Sequence[ImageJob]) -> None:
        for each in jobs:
            if each.seed in poison:
                raise ValueError(f"cannot tokenize {each.text!r}")

    backend = Backend(fail)
    sink = run(backend, [job(number) for number in range(13)])
    assert sink.reasons() == dict.fromkeys(poison, "render_failed")
    assert all("ValueError" in error.detail for error in sink.errors.values())
    if len(poison) == 1:
        assert len(backend.calls) <= 2 + 2 * 3  # two micro-batches, and two calls for each halving of eight rows


def test_a_row_error_of_the_backend_keeps_its_reason_but_not_its_tensors():
    def fail(jobs: Sequence[ImageJob]) -> None:
        if any(each.seed == 3 for each in jobs):
            raise RowError("too_long", "the text has no end")

    sink = run(Backend(fail), [job(number) for number in range(5)])
    assert sink.reasons() == {3: "too_long"}
    assert sink.errors[3].__traceback__ is None  # frames of the failed call hold the whole micro-batch in memory


def test_an_image_that_is_not_finite_is_rejected_without_rendering_anything_twice():
    class Diverging(Backend):
        def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
            super().render(jobs)
            batch = torch.zeros(len(jobs), 3, 8, 8)
            for row, each in enumerate(jobs):
                batch[row] = float("nan") if each.seed == 2 else each.seed / 10
            return to_pixels(batch)

    backend = Diverging()
    sink = run(backend, [job(number) for number in range(5)])
    assert sink.reasons() == {2: "not_finite"}
    assert backend.calls == [[0, 1, 2, 3, 4]]


def test_a_backend_that_returns_too_few_images_shifts_nothing():
    class Forgetful(Backend):
        def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
            return [image for each, image in zip(jobs, super().render(jobs), strict=True) if each.seed != 1]

    sink = run(Forgetful(), [job(number) for number in range(4)])
    assert sink.reasons() == {1: "render_failed"}


def test_pixels_that_no_codec_takes_are_a_reject():
    class Odd(Backend):
        def render(self, jobs: Sequence[ImageJob]) -> list[Pixels]:
            return [image[:, :, :2] if image[0, 0, 0] == 1 else image for image in super().render(jobs)]

    assert run(Odd(), [job(number) for number in range(4)]).reasons() == {1: "encode_failed"}


@pytest.mark.parametrize(
    "error",
    [
        BrokenEngine("gone"),
        RuntimeError("CUDA error: device-side assert triggered\nCUDA kernel errors might be ..."),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_a_broken_engine_is_nobodys_row(error):
    def fail(jobs: Sequence[ImageJob]) -> None:
        if any(each.seed == 11 for each in jobs):
            raise error

    sink = Sink(wait=lambda index: time.sleep(0.01))
    with pytest.raises(BrokenEngine):
        make(Backend(fail)).render([job(number) for number in range(16)], sink)
    sink.closed = True
    time.sleep(0.1)
    assert not sink.errors
    assert not sink.late


def test_a_mistake_of_the_user_that_the_backend_finds_late_ends_the_job():
    def fail(jobs: Sequence[ImageJob]) -> None:
        raise UserError("the model has no weights")

    with pytest.raises(UserError):
        make(Backend(fail)).render([job(0)], Sink())


def test_an_error_of_the_sink_goes_up_and_nothing_is_added_afterwards():
    sink = Sink(broken_at=2, wait=lambda index: time.sleep(0.01))
    with pytest.raises(OSError, match="no space left"):
        make(Backend()).render([job(number) for number in range(64)], sink)
    sink.closed = True
    time.sleep(0.1)
    assert not sink.late, "a thread calls the sink of a shard that has already failed"


def test_encoding_runs_beside_the_next_micro_batch_and_no_further():
    """The sink of a micro-batch waits for the next one's rendering: never idle, never hoarding pixels."""
    ahead: list[int] = []
    began = [threading.Event() for _ in range(7)]

    def render(jobs: Sequence[ImageJob]) -> None:
        ahead.append(jobs[0].seed - len(sink.images))
        began[jobs[0].seed // 4].set()

    began[6].set()  # nothing is rendered beside the last micro-batch's encoding
    sink = Sink(wait=lambda index: waited.append(began[index // 4 + 1].wait(60)))
    waited: list[bool] = []
    make(Backend(render), rows=4, threads=1).render([job(number) for number in range(24)], sink)
    assert len(sink.images) == 24
    assert all(waited), "the renderer waits for the encoder"
    assert max(ahead) <= 4, "a micro-batch is rendered while two others wait for the encoder"


def test_two_shards_at_once_share_one_backend_safely():
    """Each shard's pictures wait for a rendering of the other: neither has to be at its end before the other begins."""
    began = [threading.Event(), threading.Event()]
    backend = Backend(lambda jobs: began[jobs[0].seed // 100].set())
    generator = make(backend, rows=3)
    waited: list[bool] = []
    sinks = [Sink(wait=lambda index, other=began[1 - shard]: waited.append(other.wait(60))) for shard in (0, 1)]
    shards = [[job(number + 100 * shard) for number in range(30)] for shard in (0, 1)]
    threads = [threading.Thread(target=generator.render, args=pair) for pair in zip(shards, sinks, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for shard, sink in zip(shards, sinks, strict=True):
        assert len(sink.images) == 30
        assert all(read_marks(sink.images[index].data).image_id == each.image_id for index, each in enumerate(shard))
    assert all(waited), "one shard was rendered to its end before the other began"
    generator.close()


def test_render_one_makes_the_file_of_the_shard_again():
    sink = run(Backend(), [job(number) for number in range(5)])
    generator = make(Backend())
    assert generator.render_one(job(3)) == sink.images[3]
    with pytest.raises(RowError, match="bad_size"):
        generator.render_one(job(3, width=7))

    def fail(jobs: Sequence[ImageJob]) -> None:
        raise ValueError(SECRET)

    with pytest.raises(RowError, match="render_failed") as caught:
        make(Backend(fail)).render_one(job(3))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(("rows", "threads"), [(0, 1), (1, 0)])
def test_counts_below_one_are_refused(rows, threads):
    with pytest.raises(ValueError, match="at least 1"):
        make(Backend(), rows, threads)
