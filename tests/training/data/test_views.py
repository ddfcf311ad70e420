"""Which image, which epoch, which parameters: pure functions of the seed, for any number of processes and workers.

Letters: B images on one process, V views of an image, S view size, P augmentation parameters.
"""

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from star_training.data.sources.spirograph import Spirographs
from star_training.data.sources.subset import Part, hold_out, spread
from star_training.data.views import MultiViewDataset, StepBatches, loader, seeded, stack
from star_zoo import objectives
from twins import every_operation, photos

few_processors = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # fewer than workers
repeatable = settings(derandomize=True, deadline=None, max_examples=80)
shapes = {
    "world": st.integers(1, 4),
    "share": st.integers(1, 5),  # images of a batch on one process
    "accumulate": st.integers(1, 3),
    "epochs": st.integers(1, 3),
    "extra": st.integers(0, 40),  # images beyond what fills one step
    "seed": st.integers(0, 5),
}


def batches(
    world, share, accumulate, epochs, extra, seed, first=0, rank=0, ranks=None
) -> list[list[tuple[int, int, int]]]:
    """All batches of one process from step `first` on."""
    size = world * share
    count = size * accumulate + extra
    steps = count // (size * accumulate) * epochs
    return list(StepBatches(count, size, accumulate, seed, range(first, steps), rank, ranks or world))


# Batches


@repeatable
@given(**shapes)
def test_the_shares_of_all_processes_make_the_batches_of_one(world, **shape):
    whole = batches(world, **shape, ranks=1)
    shares = [batches(world, **shape, rank=rank) for rank in range(world)]
    assert [sum(parts, []) for parts in zip(*shares, strict=True)] == whole
    assert all(len(batch) == shape["share"] for part in shares for batch in part)


@repeatable
@given(**shapes)
def test_an_epoch_takes_no_image_twice_and_leaves_out_less_than_a_step(**shape):
    size = shape["world"] * shape["share"] * shape["accumulate"]
    count = size + shape["extra"]
    keys = sum(batches(**shape, ranks=1), [])
    for epoch in range(shape["epochs"]):
        indices = [index for e, index, _ in keys if e == epoch]
        assert len(set(indices)) == len(indices) == count // size * size
        assert set(indices) <= set(range(count))
    assert [e for e, *_ in keys] == sorted(e for e, *_ in keys)


@repeatable
@given(**shapes, data=st.data())
def test_a_start_at_any_step_gives_the_same_rest(data, **shape):
    whole = batches(**shape)
    steps = len(whole) // shape["accumulate"]
    first = data.draw(st.integers(0, steps))
    assert batches(**shape, first=first) == whole[first * shape["accumulate"] :]


@repeatable
@given(**shapes)
def test_its_length_is_the_number_of_batches(world, share, accumulate, epochs, extra, seed):
    sampler = StepBatches(world * share * accumulate + extra, world * share, accumulate, seed, range(epochs), 0, world)
    assert len(sampler) == len(list(sampler)) == epochs * accumulate


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [
        [index for _, index, _ in sum(StepBatches(100, 10, 1, seed, range(10 * epoch, 10 * epoch + 10)), [])]
        for seed in range(3)
        for epoch in range(3)
    ]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 9


def test_every_image_is_as_likely_at_every_place():
    counts = torch.zeros(8, 8)
    for seed in range(800):
        (batch,) = StepBatches(8, 8, 1, seed, range(1))
        counts[torch.arange(8), [index for _, index, _ in batch]] += 1
    assert ((counts - 100).abs() < 5 * (800 * 1 / 8 * 7 / 8) ** 0.5).all()  # five standard deviations


def test_generators_of_different_keys_are_unrelated():
    keys = [(a, b, c) for a in range(10) for b in range(10) for c in range(10)]
    draws = torch.stack([torch.rand(20, generator=seeded(*key)) for key in keys])
    assert len(draws.unique(dim=0)) == 1000
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.2
    assert not torch.equal(torch.rand(4, generator=seeded(1, 23)), torch.rand(4, generator=seeded(12, 3)))
    assert torch.equal(torch.rand(4, generator=seeded(1, 2)), torch.rand(4, generator=seeded(1, 2)))


# Views


class Photos:
    """Random images of different sizes."""

    targets = None

    def __init__(self, count: int):
        self.images = [photos(1, 20 + k, 24, seed=k)[0] for k in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


POLICY = every_operation(16)
OBJECTIVE = objectives.build("star", 8, POLICY, num_experts=2)


def dataset(seed: int = 0) -> MultiViewDataset:
    return MultiViewDataset(Photos(24), POLICY, OBJECTIVE.plan, seed)


def test_a_view_holds_what_its_params_say():
    batch = stack([dataset()[3, 5]]).batch()
    image = Photos(24)[5]
    assert torch.equal(batch.params[0][0], POLICY.base(*image.shape[-2:]))
    for view, params in zip(batch.views, batch.params, strict=True):
        assert view.shape == (1, 3, 16, 16) and view.dtype == torch.uint8
        assert torch.equal(view[0], POLICY.crop(image, params[0]))
    assert batch.index.tolist() == [5] and batch.size.tolist() == [[25, 24]] and batch.target is None


def test_views_may_differ_in_size():
    """Each view is the policy's crop of its own size, and views of one size are one tensor on the way."""
    sizes = (16, 16, 8)
    packed = MultiViewDataset(Photos(24), POLICY, OBJECTIVE.plan, 0, sizes)[0, 3]
    assert [tuple(run.shape) for run in packed.views] == [(2, 16, 16, 3), (1, 8, 8, 3)]
    batch = stack([packed]).batch()
    for size, view, params in zip(sizes, batch.views, batch.params, strict=True):
        assert torch.equal(view[0], POLICY.resized(size).crop(Photos(24)[3], params[0]))


def test_images_that_share_a_draw_have_it_from_the_first_of_them():
    keys = list(StepBatches(24, 6, 1, 0, range(4), shared=3))
    for batch in keys:
        assert [draw for _, _, draw in batch] == [batch[k - k % 3][1] for k in range(6)]
    everything = dataset()
    first, second = (everything[key].params for key in keys[0][:2])
    alone = everything[keys[0][1][:2]].params
    assert torch.equal(second[1:, 4:], first[1:, 4:])  # all but the crop, which depends on the image's size too
    assert not torch.equal(second, alone)


def test_targets_of_the_images_travel_with_them():
    class Labelled(Photos):
        targets = torch.arange(24) * 10

    views = MultiViewDataset(Labelled(24), POLICY, OBJECTIVE.plan, 0)
    for packed in loader(views, StepBatches(24, 4, 1, 0, range(2)), 0, pin=False):
        batch = packed.batch()
        assert torch.equal(batch.target, batch.index * 10)


def test_views_are_a_pure_function_of_seed_epoch_and_index():
    keys = [(epoch, index) for epoch in range(3) for index in range(4)]
    first, again = dataset(), dataset()
    forwards = [first[key] for key in keys]
    torch.manual_seed(99)  # whatever else draws numbers
    backwards = [again[key] for key in reversed(keys)][::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert torch.equal(a.views[0], b.views[0]) and torch.equal(a.params, b.params)


def test_views_differ_between_epochs_images_seeds_and_each_other():
    drawn = [dataset(seed)[epoch, index].params[1:] for seed in (0, 1) for epoch in (0, 1) for index in (0, 1)]
    assert len(torch.cat(drawn).unique(dim=0)) == 16


def loaded(workers: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for packed in loader(dataset(), StepBatches(24, 4, 2, 0, range(first, 6)), workers, pin=False):
        yield packed.views[0], packed.params, packed.index


@few_processors
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_workers_change_nothing(workers: int):
    count = 0
    for found, expected in zip(loaded(workers), loaded(0), strict=True):
        assert found[0].shape == (4, 3, 16, 16, 3) and found[0].dtype == torch.uint8
        assert all(map(torch.equal, found, expected))
        count += 1
    assert count == 12


def test_a_loader_that_starts_later_gives_the_same_rest():
    whole, rest = list(loaded(0)), list(loaded(0, first=4))
    assert len(rest) == 4
    for found, expected in zip(rest, whole[-4:], strict=True):
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_generator_alone(workers: int):
    state = torch.get_rng_state()
    list(loaded(workers))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_leave_signals_to_the_main_process():
    class Handlers(Photos):
        def __getitem__(self, index: int) -> Tensor:
            ignored = [signal.getsignal(n) == signal.SIG_IGN for n in (signal.SIGINT, signal.SIGTERM)]
            return torch.full((3, 24, 24), 255 * all(ignored), dtype=torch.uint8)

    views = MultiViewDataset(Handlers(24), POLICY, OBJECTIVE.plan, 0)
    for workers, expected in ((1, 255), (0, 0)):
        packed = next(iter(loader(views, StepBatches(24, 4, 1, 0, range(1)), workers, pin=False)))
        assert (packed.views[0] == expected).all()


# Parts of a source


def test_a_part_is_a_source_of_the_chosen_images():
    source = Spirographs(10)
    part = Part(source, torch.tensor([7, 2, 5]))
    assert len(part) == 3 and part.name == source.name
    others = (source, Part(source, torch.tensor([7, 2])), Part(source, torch.tensor([2, 7, 5])))
    assert part.fingerprint not in {other.fingerprint for other in others}
    assert part.fingerprint == Part(source, torch.tensor([7, 2, 5])).fingerprint
    assert all(torch.equal(part[k], source[i]) for k, i in enumerate((7, 2, 5)))
    assert torch.equal(part.targets, source.targets[[7, 2, 5]])
    assert part.describe(1) == source.describe(2)


def test_a_part_passes_on_bad_images_under_its_own_numbers():
    source = Spirographs(10)
    source.bad = (2, 3)
    assert Part(source, torch.tensor([7, 2, 5])).bad == (1,)
    source.check_bad = lambda: (_ for _ in ()).throw(ValueError("too many"))
    with pytest.raises(ValueError, match="too many"):
        Part(source, torch.tensor([7])).check_bad()


def test_a_part_of_unlabelled_images_is_unlabelled():
    source = Spirographs(10)
    source.targets = None
    assert Part(source, torch.tensor([1])).targets is None


@pytest.mark.parametrize(("count", "want"), [(10, 4), (10, 1), (10, 9), (1000, 7)])
def test_spread_takes_images_from_everywhere(count: int, want: int):
    source = Spirographs(count)
    part = spread(source, want)
    places = [int((source.targets == target).all(1).nonzero()) for target in part.targets]
    assert len(part) == want and places == sorted(set(places)) and places[0] == 0
    gaps = [b - a for a, b in zip(places, places[1:], strict=False)]
    assert not gaps or (max(gaps) - min(gaps) <= 1 and places[-1] == count - 1)


@pytest.mark.parametrize("want", [10, 11])
def test_spread_of_few_images_is_all_of_them(want: int):
    source = Spirographs(10)
    assert spread(source, want) is source


@given(count=st.integers(2, 60), share=st.floats(0.01, 0.9), seed=st.integers(0, 9))
@repeatable
def test_hold_out_splits_at_random_without_loss(count: int, share: float, seed: int):
    source = Spirographs(count)
    rest, held = hold_out(source, share, seeded(seed))
    assert len(held) == max(1, round(share * count)) and len(rest) + len(held) == count
    assert len(torch.cat((rest.targets, held.targets)).unique(dim=0)) == count
    again, _ = hold_out(source, share, seeded(seed))
    assert torch.equal(rest.targets, again.targets)


def test_hold_out_of_another_seed_is_another():
    held = [hold_out(Spirographs(1000), 0.1, seeded(seed))[1].targets for seed in (0, 1)]
    assert not torch.equal(*held)
