"""The memory bank: its moving averages, and the rows that serve as negatives. Letters: K rows, N images, C sampled."""

import pytest
import torch
from torch.testing import assert_close

from star_zoo.momentum import MemoryBank
from twins import build, randn


def test_a_row_is_the_moving_average_of_its_image():
    bank, index = MemoryBank(7, 3), torch.tensor([4, 0])
    expected = bank.rows.clone()
    for step in range(3):
        new = randn(2, 3, seed=step)
        bank.update(index, new, 0.8)
        for row, z in zip(index.tolist(), new, strict=True):
            expected[row] = 0.8 * expected[row] + 0.2 * z
    assert_close(bank.rows, expected)
    assert_close(bank.read(torch.tensor([0, 4])), expected[[0, 4]])


def test_rows_start_at_unit_length():
    assert_close(MemoryBank(50, 6).rows.norm(dim=1), torch.ones(50))


def test_samples_are_spread_over_the_bank_and_move_on():
    bank, seen = MemoryBank(20, 3), []
    for _ in range(5):
        rows, others = bank.sample(torch.tensor([3, 27]), 4)
        numbers = [int((bank.rows == row).all(1).nonzero()) for row in rows]
        assert {(b - a) % 20 for a, b in zip(numbers, numbers[1:], strict=False)} == {5}
        assert others.tolist() == [[n != own for n in numbers] for own in (3, 7)]
        seen += numbers
        bank.update(torch.tensor([0]), randn(1, 3), 1.0)
    assert sorted(seen) == list(range(20))  # each row once in as many updates as there are rows per sample


def test_a_sample_of_more_rows_than_there_are_is_the_whole_bank():
    bank = MemoryBank(5, 3)
    rows, others = bank.sample(torch.tensor([2]), 100)
    assert torch.equal(rows, bank.rows) and others.tolist() == [[True, True, False, True, True]]


def test_images_beyond_the_last_row_share_rows():
    bank = MemoryBank(5, 3)
    assert torch.equal(bank.read(torch.tensor([12])), bank.rows[[2]])


def test_a_bank_needs_a_size_and_is_not_published():
    with pytest.raises(ValueError, match="memory bank's size is 0; it must be at least 1"):
        MemoryBank(0, 3)
    objective = build("simclr")
    before = set(objective.published())
    objective.bank = MemoryBank(4, 3)
    assert set(objective.published()) == before < set(objective.state_dict())
