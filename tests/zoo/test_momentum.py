"""Momentum copies and queues against closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from star_zoo.momentum import MomentumCopy, Queue, cosine_momentum
from twins import build, randn


def test_a_copy_is_the_moving_average_of_the_weights():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    copy, average = MomentumCopy(module), module[0].weight.detach().clone()
    for step in range(4):
        with torch.no_grad():
            module[0].weight.copy_(randn(4, 3, seed=step))
        copy.update(module, 0.9)
        average = 0.9 * average + 0.1 * module[0].weight.detach()
    assert_close(copy.module[0].weight, average)
    assert not any(p.requires_grad for p in copy.parameters())


def test_a_copys_output_has_no_gradient_and_its_running_statistics_are_its_own():
    module = nn.BatchNorm1d(3)
    copy = MomentumCopy(module)
    assert not copy(randn(8, 3).requires_grad_()).requires_grad
    assert copy.module.num_batches_tracked == 1 and module.num_batches_tracked == 0
    copy.update(module, 0.0)
    assert copy.module.num_batches_tracked == 1


def test_cosine_momentum_goes_from_its_start_to_one():
    assert [cosine_momentum(0.96, p) for p in (0, 0.5, 1)] == pytest.approx([0.96, 0.98, 1])
    assert cosine_momentum(0.9, 0.25) == pytest.approx(1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2)


def test_a_queue_holds_the_last_rows_at_unit_length():
    queue, pushed = Queue(5, 3), [randn(2, 3, seed=k) for k in range(4)]
    for rows in pushed:
        queue.push(rows)
    last = F.normalize(torch.cat(pushed)[-5:], dim=1)
    assert_close(queue.rows.sort(0).values, last.sort(0).values)
    queue.push(randn(9, 3))  # more than it holds: the last ones remain
    assert_close(queue.rows.sort(0).values, F.normalize(randn(9, 3), dim=1)[-5:].sort(0).values)


def test_a_queue_needs_a_size():
    with pytest.raises(ValueError, match="queue's size is 0; it must be at least 1"):
        Queue(0, 3)


def test_copies_and_queues_are_not_published():
    objective = build("simclr")
    before = set(objective.published())
    objective.teacher, objective.queue = MomentumCopy(objective.heads), Queue(4, 3)
    assert set(objective.published()) == before < set(objective.state_dict())
