"""The order of samples: complete, shuffled, weighted, the same for any number of workers and from any step on."""

from __future__ import annotations

from collections import Counter

import pytest

from actors.errors import UserError
from pipeline.sample_order import Pick, SampleOrder


def order(**changes) -> SampleOrder:
    told = {"rows": (40, 25, 35), "weights": (None, None, None), "batch": 20, "lanes": 4, "window": 8, "seed": 3}
    return SampleOrder(**(told | changes))


def flat(steps: list[list[Pick]]) -> list[Pick]:
    return [pick for step in steps for pick in step]


def test_an_epoch_holds_each_row_once():
    made = order()
    for epoch in range(3):
        seen = Counter((p.fragment, p.row) for p in flat(made.picks(epoch * 5, 5, range(4))))
        assert seen == Counter((f, r) for f, rows in enumerate(made.rows) for r in range(rows))


def test_epochs_that_are_no_multiple_of_the_batch_flow_on_without_loss():
    made = order(rows=(41, 25, 37), lanes=2, batch=10)
    seen: dict[int, Counter] = {}
    for pick in flat(made.picks(0, 40, range(2))):
        seen.setdefault(pick.epoch, Counter())[pick.fragment, pick.row] += 1
    everything = Counter((f, r) for f, rows in enumerate(made.rows) for r in range(rows))
    assert [seen[epoch] == everything for epoch in range(3)] == [True] * 3


def test_workers_together_see_the_batches_of_one():
    made = order()
    alone = made.picks(7, 6, range(4))
    shares = [made.picks(7, 6, made.worker_lanes(rank, 2)) for rank in range(2)]
    assert [first + second for first, second in zip(*shares, strict=True)] == alone


def test_resumed_at_a_step_it_goes_on_as_if_undisturbed():
    whole = order().picks(0, 30, range(4))
    assert order().picks(13, 17, range(4)) == whole[13:]


def test_samples_are_numbered_throughout():
    assert [p.sample for p in flat(order().picks(2, 3, range(4)))] == list(range(40, 100))


def test_order_changes_with_epoch_and_seed():
    first, second = order().picks(0, 5, range(4)), order().picks(5, 5, range(4))
    rows = [[(p.fragment, p.row) for p in flat(part)] for part in (first, second)]
    assert rows[0] != rows[1]
    assert flat(first) != flat(order(seed=4).picks(0, 5, range(4)))


def test_neighbours_of_a_fragment_are_parted():
    """A batch of an epoch is drawn from all over the table, and not from one file."""
    made = order(rows=(100,) * 8, weights=(None,) * 8, lanes=8, batch=64, window=50)
    fragments = [len({p.fragment for p in step}) for step in made.picks(0, 12, range(8))]
    assert min(fragments) >= 4


def test_weights_say_how_often_a_row_comes():
    made = order(rows=(4, 4), weights=((2.0, 0.5, 0.25, 0.25), None), batch=7, lanes=1)
    assert made.epoch_samples == 7
    epochs = 400
    seen = Counter((p.fragment, p.row) for p in flat(made.picks(0, epochs, [0])))
    wanted = {(0, 0): 2.0, (0, 1): 0.5, (0, 2): 0.25, (0, 3): 0.25} | {(1, row): 1.0 for row in range(4)}
    assert {key: round(seen[key] / epochs, 1) for key in wanted} == {
        k: pytest.approx(v, abs=0.1) for k, v in wanted.items()
    }
    assert seen[0, 0] == 2 * epochs  # whole numbers are exact in each epoch


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch": 18}, "data.lanes=4: take a multiple"),
        ({"rows": (3,), "weights": (None,)}, "3 samples, fewer than data.lanes=4"),
    ],
)
def test_what_cannot_be_shared_out_is_one_sentence(changes, said):
    with pytest.raises(UserError, match=said):
        order(**changes)


def test_workers_that_do_not_divide_the_lanes_are_refused():
    with pytest.raises(UserError, match="3 workers cannot share"):
        order().worker_lanes(0, 3)
