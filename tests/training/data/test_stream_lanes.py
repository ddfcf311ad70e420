"""Lanes: an order of images that is the same for all numbers of processes and workers, and can be gone on with."""

import dataclasses
from collections.abc import Iterator
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data_cases import BROKEN, png
from star_training.data import BadImageWarning, DataError
from star_training.data.streaming.loader import HeldImage, Lanes, count_lanes
from star_training.data.streaming.shard_order import Deal, Drawn, Place, shuffled
from star_training.data.streaming.shards import Encoded
from star_training.data.views import MultiViewDataset, Packed, concatenate, seeded
from star_zoo import Policy
from star_zoo.augmentations import Crop

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on small machines
POLICY = Policy((Crop(size=4),), (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Shards of so many images, numbered through; the `broken` ones don't decode."""

    counts: tuple[int, ...]
    broken: frozenset[int] = frozenset()
    fingerprint = "numbered"

    def __len__(self) -> int:
        return len(self.counts)

    def read(self, shard: int) -> Iterator[Encoded]:
        first = sum(self.counts[:shard])
        for k in range(first, first + self.counts[shard]):
            yield Encoded(f"image {k}", BROKEN if k in self.broken else png(k, (60, 48)))


def plan(height: int, width: int, generator: torch.Generator) -> Tensor:
    return torch.stack([POLICY.draw(height, width, generator) for _ in range(2)])


def lanes(deal: Deal, batch_size: int, rank: int = 0, world: int = 1, images: int = 100, max_bad: float = 1.0) -> Lanes:
    return Lanes(deal, "numbered", images, max_bad, batch_size, rank, world)


def made(reader: Lanes, count: int, workers: int, shared: int = 1) -> Iterator[Packed]:
    """The next batches of a process."""
    return reader.batches(count, MultiViewDataset(HeldImage(), POLICY, plan, reader.deal.seed), workers, False, shared)


def numbers(batch: Packed) -> list[int]:
    """Which images a batch holds, by their colour."""
    return batch.views[0][:, 0, 0, 0, 0].tolist()


# The order

DEALS = st.builds(
    lambda counts, wanted, buffer, seed: Deal(Numbered(tuple(counts)), min(wanted, len(counts)), buffer, seed),
    st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any),
    st.integers(1, 7),
    st.integers(1, 12),
    st.integers(0, 99),
)


def one_lap(deal: Deal, lane: int, lap: int) -> list[Drawn]:
    made = []
    for drawn in deal.images(lane, Place(lap)):
        if drawn.lap != lap:
            break
        made.append(drawn)
    return made


@settings(deadline=None)
@given(DEALS, st.integers(0, 3))
def test_each_pass_has_every_image_once(deal: Deal, lap: int):
    got = []
    for lane in range(deal.lanes):
        got += [(drawn.shard, drawn.position) for drawn in one_lap(deal, lane, lap)]
    assert sorted(got) == [(shard, k) for shard, count in enumerate(deal.shards.counts) for k in range(count)]


def twin(deal: Deal, lane: int, laps: int) -> list[tuple[int, int, int]]:
    """(lap, shard, position) of a lane's images: all of a shard read at once, then drawn from a window over it."""
    order = []
    for lap in range(laps):
        generator = seeded(deal.seed, lap)
        cards = torch.randperm(len(deal.shards), generator=generator).tolist()
        for shard in [card for k, card in enumerate(cards) if k % deal.lanes == lane]:
            window = list(range(deal.shards.counts[shard]))
            window, rest = window[: deal.buffer], window[deal.buffer :]
            generator = seeded(deal.seed, lap, shard, deal.buffer)
            while rest:
                k = int(torch.randint(deal.buffer, (), generator=generator))
                order.append((lap, shard, window[k]))
                window[k] = rest.pop(0)
            order += [(lap, shard, window[k]) for k in torch.randperm(len(window), generator=generator)]
    return order


@settings(deadline=None)
@given(DEALS.filter(lambda deal: all(deal.shards.counts)), st.data())
def test_a_lane_has_the_order_of_a_slow_twin_from_any_place_on(deal: Deal, data: st.DataObject):
    lane = data.draw(st.integers(0, deal.lanes - 1))
    wanted = twin(deal, lane, 3)
    drawn = list(islice(deal.images(lane, Place()), len(wanted)))
    assert [(d.lap, d.shard, d.position) for d in drawn] == wanted
    at = data.draw(st.integers(0, len(wanted) - 1))
    assert list(islice(deal.images(lane, drawn[at].after), len(wanted) - at - 1)) == drawn[at + 1 :]


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(0, 99))
def test_a_shuffle_holds_no_more_than_its_buffer(count: int, size: int, seed: int):
    read, given_out = 0, []

    def items() -> Iterator[int]:
        nonlocal read
        for read in range(1, count + 1):
            yield read - 1

    for item in shuffled(items(), size, seeded(seed)):
        given_out.append(item)
        assert read - len(given_out) <= size
        assert item < len(given_out) + size  # at most `size` places early
    assert sorted(given_out) == list(range(count))


def test_passes_seeds_and_shards_have_orders_of_their_own():
    deal = Deal(Numbered((30, 30)), 1, 10, seed=0)
    orders = [[d.position for d in one_lap(deal, 0, lap) if d.shard == shard] for lap in range(3) for shard in range(2)]
    other = dataclasses.replace(deal, seed=1)
    orders += [[d.position for d in one_lap(other, 0, 0) if d.shard == 0], list(range(30))]
    assert all(sorted(order) == list(range(30)) for order in orders)
    assert len({tuple(order) for order in orders}) == len(orders)


# Batches

DEAL = Deal(Numbered((5, 9, 3, 8, 1, 7), frozenset({4, 11})), 4, 3, seed=5)


def batches(deal: Deal, count: int, workers: int = 0, batch_size: int = 8, world: int = 1) -> list[Packed]:
    """The global batches of some processes, each after the other."""
    shares = [list(made(lanes(deal, batch_size, rank, world), count, workers)) for rank in range(world)]
    return [concatenate(parts) for parts in zip(*shares, strict=True)]


def test_a_batch_has_as_many_good_images_of_each_lane_in_their_order():
    expected = []
    for lane in range(4):
        order = [sum(DEAL.shards.counts[:shard]) + k for _, shard, k in twin(DEAL, lane, 9)]
        good = [n for n in order if n not in DEAL.shards.broken]
        expected.append([good[2 * k : 2 * k + 2] for k in range(12)])
    assert [numbers(batch) for batch in batches(DEAL, 12)] == [sum(parts, []) for parts in zip(*expected, strict=True)]


@pytest.mark.parametrize(("workers", "world"), [(1, 1), (2, 1), (3, 1), (9, 1), (0, 2), (2, 2), (1, 4)])
def test_batches_do_not_depend_on_who_reads(workers: int, world: int):
    for one, other in zip(batches(DEAL, 6), batches(DEAL, 6, workers=workers, world=world), strict=True):
        assert torch.equal(one.views[0], other.views[0]) and torch.equal(one.params, other.params)
        assert one.views[0].shape == (8, 2, 4, 4, 3) and one.views[0].dtype == torch.uint8
        assert torch.equal(one.index, other.index) and one.size.tolist() == [[48, 60]] * 8


@pytest.mark.parametrize(("before", "after"), [((1, 0), (1, 2)), ((1, 2), (2, 0)), ((2, 1), (1, 0)), ((4, 0), (2, 2))])
def test_others_go_on_from_where_images_were_used(before: tuple[int, int], after: tuple[int, int]):
    whole = batches(DEAL, 9)
    state = torch.zeros(4, 5, dtype=torch.int64)
    for rank in range(before[0]):
        reader = lanes(DEAL, 8, rank, before[0])
        ahead = made(reader, 9, before[1])  # workers have read on meanwhile
        assert len(list(islice(ahead, 4))) == 4
        state += reader.state
        ahead.close()
    shares = []
    for rank in range(after[0]):
        reader = lanes(DEAL, 8, rank, after[0])
        reader.go_to(state)
        shares.append(list(made(reader, 5, after[1])))
    for batch, *parts in zip(whole[4:], *shares, strict=True):
        assert torch.equal(batch.views[0], torch.cat([part.views[0] for part in parts]))
        assert torch.equal(batch.params, torch.cat([part.params for part in parts]))


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_a_lane_share_a_draw(workers: int):
    deal = Deal(Numbered((9, 9)), 2, 3, seed=5)
    for packed in made(lanes(deal, 12), 6, workers, shared=3):
        groups = packed.params.view(4, 3, -1)
        assert torch.equal(groups, groups[:, :1].expand_as(groups)) and len(groups[:, 0].unique(dim=0)) == 4


def test_the_views_of_an_image_depend_on_nothing_but_the_pass_and_its_place():
    def views(deal: Deal) -> dict[int, list[Tensor]]:
        seen: dict[int, list[Tensor]] = {}
        for batch in batches(deal, 30, batch_size=4):
            for number, params in zip(numbers(batch), batch.params, strict=True):
                seen.setdefault(number, []).append(params)
        return seen

    shards_ = Numbered((6, 6, 6, 6))
    one, other = views(Deal(shards_, 4, 3, seed=5)), views(Deal(shards_, 2, 5, seed=5))
    assert one.keys() == other.keys() == set(range(24))
    for number, passes in one.items():
        assert all(map(torch.equal, passes[:4], other[number][:4])) and len(passes) >= 4
    firsts = [passes[k] for passes in one.values() for k in range(4)]
    assert len({tuple(params.flatten().tolist()) for params in firsts}) == len(firsts)  # and no two are the same


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_are_reported_once_and_counted(workers: int):
    reader = lanes(DEAL, 8, images=50, max_bad=0.1)
    ahead = made(reader, 12, workers)
    assert len(list(islice(ahead, 10))) == 10
    drawn, bad = reader.state[:, 3:].sum(0).tolist()
    assert drawn - bad == 80 and bad > 0
    with pytest.warns(BadImageWarning, match=rf"{bad} of the {drawn} images of numbered can't be used: image \d+ \("):
        reader.check_bad(reader.state)
    reader.check_bad(reader.state)  # nothing new: no warning
    resumed = lanes(DEAL, 8, images=50, max_bad=0.1)
    resumed.go_to(reader.state)
    resumed.check_bad(resumed.state)
    strict = lanes(DEAL, 8, images=10, max_bad=bad / drawn / 2)
    with pytest.raises(DataError, match="allows fewer"):
        strict.check_bad(reader.state)
    ahead.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lane_of_bad_images_alone_ends_in_one_line(workers: int):
    reader = lanes(Deal(Numbered((9, 9), frozenset(range(9))), 2, 3, 0), 2, images=10, max_bad=0.5)
    with pytest.raises(DataError, match=r"^6 images of numbered in a row don't decode, the last image \d .*\.$"):
        list(made(reader, 20, workers))


def test_lanes_that_cannot_be_shared_evenly_are_refused_with_a_number_that_can():
    assert count_lanes(8, 20, 256, 1) == count_lanes(8, 8, 256, 4) == 8
    assert count_lanes(8, 4, 256, 4) == 4
    with pytest.raises(ValueError, match=r"5 shards make 5 lanes .* batch_size 256 must be .* data.lanes=4"):
        count_lanes(8, 5, 256, 1)
    with pytest.raises(ValueError, match=r"the lanes a multiple of the 3 processes; use --set data.lanes=6"):
        count_lanes(8, 20, 96, 3)
    with pytest.raises(ValueError, match=r"use --set data.lanes=16"):
        count_lanes(8, 20, 256, 16)
    with pytest.raises(ValueError, match=r"use fewer processes, more shards or another batch_size"):
        count_lanes(8, 3, 256, 4)


def test_a_lane_without_images_ends_in_an_error_and_not_in_a_search_for_ever():
    class Nothing:
        fingerprint = "none"

        def __len__(self) -> int:
            return 2

        def read(self, shard: int):
            return iter(())

    with pytest.raises(DataError, match="100 passes had no image for lane 0"):
        next(Deal(Nothing(), 1, 4, 0).images(0, Place()))
