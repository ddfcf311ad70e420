"""nt_xent against a double loop, closed forms and, over two real processes, itself on the whole batch."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing import assert_close

import twins
from star_zoo.losses import gather_with_grad, nt_xent
from twins import randn

N, O = 6, 5  # noqa: E741


# --- one process


@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_nt_xent_equals_a_double_loop(temperature: float):
    a, b = randn(N, O), randn(N, O, seed=1)
    assert nt_xent(a, b, temperature).item() == pytest.approx(twins.nt_xent(a, b, temperature), rel=1e-6)


def test_equal_embeddings_give_the_log_of_the_number_of_candidates():
    a = torch.ones(N, O)
    assert nt_xent(a, a, 0.2).item() == pytest.approx(math.log(2 * N - 1))


def test_orthogonal_pairs_have_a_closed_form():
    a = torch.eye(N) * torch.arange(1.0, N + 1)[:, None]  # lengths must not matter
    expected = math.log(math.exp(1 / 0.2) + 2 * N - 2) - 1 / 0.2
    assert nt_xent(a, 3 * a, 0.2).item() == pytest.approx(expected)


def test_the_order_of_arguments_does_not_matter():
    a, b = randn(N, O), randn(N, O, seed=1)
    assert_close(nt_xent(a, b, 0.2), nt_xent(b, a, 0.2))


def test_gradients_equal_those_of_a_plain_statement_in_double_precision():
    pair = randn(N, O), randn(N, O, seed=1)
    a, b = (x.requires_grad_() for x in pair)
    nt_xent(a, b, 0.2).backward()

    rows = torch.cat(pair).detach().double().requires_grad_()
    unit = rows / rows.norm(dim=1, keepdim=True)
    losses = []
    for i in range(2 * N):
        scores = (unit @ unit[i]) / 0.2
        others = torch.arange(2 * N) != i
        losses.append(scores[others].logsumexp(0) - scores[(i + N) % (2 * N)])
    torch.stack(losses).mean().backward()
    assert_close(torch.cat((a.grad, b.grad)).double(), rows.grad, rtol=1e-4, atol=1e-7)


def test_bfloat16_embeddings_are_compared_in_float32():
    a, b = randn(N, O).bfloat16(), randn(N, O, seed=1).bfloat16()
    loss = nt_xent(a, b, 0.05)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(twins.nt_xent(a.double(), b.double(), 0.05), rel=1e-6)


def test_autocast_does_not_reach_the_logits():
    a, b = randn(N, O), randn(N, O, seed=1)
    with torch.autocast("cpu", torch.bfloat16):
        inside = nt_xent(a, b, 0.05)
    assert torch.equal(inside, nt_xent(a, b, 0.05))


def test_a_zero_embedding_gives_a_finite_loss_and_gradient():
    a = torch.zeros(N, O, requires_grad=True)
    loss = nt_xent(a, randn(N, O), 0.2)
    loss.backward()
    assert loss.isfinite()
    assert a.grad.isfinite().all()


def test_pairs_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(6, 5\) and \(5, 5\)"):
        nt_xent(randn(6, O), randn(5, O), 0.2)


@pytest.mark.parametrize("temperature", [0, -0.2])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float):
    with pytest.raises(ValueError, match=f"temperature is {temperature}; it must be positive"):
        nt_xent(randn(N, O), randn(N, O), temperature)


def test_one_process_gathers_the_tensor_itself():
    x = randn(N, O)
    assert gather_with_grad(x) is x


# --- two processes, each with half of the batch

WORLD = 2


def network() -> nn.Module:
    """No batch norm: its statistics would be those of half a batch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, O))


def whole_batch() -> tuple[Tensor, Tensor]:
    return randn(WORLD * N, 4, seed=2), randn(WORLD * N, 4, seed=3)


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def process(rank: int, folder: str) -> None:
    """What one of the processes computes; kept in a file for the tests to look at."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=WORLD)
    own = slice(rank * N, rank * N + N)
    x1, x2 = (x[own] for x in whole_batch())
    kept = {}

    by_hand = network()
    loss = nt_xent(by_hand(x1), by_hand(x2), 0.2)
    loss.backward()
    kept |= {"loss": loss.detach(), "gradient": gradient(by_hand)}

    wrapped = DistributedDataParallel(network())
    nt_xent(*wrapped(torch.cat((x1, x2))).chunk(2), 0.2).backward()
    kept["ddp"] = gradient(wrapped)

    x = x1.clone().requires_grad_()
    gathered = gather_with_grad(x)
    (gathered * (rank + 1)).sum().backward()
    kept |= {"gathered": gathered.detach(), "gathered gradient": x.grad}

    x, other = x1.clone().requires_grad_(), torch.zeros(WORLD * N, 4, requires_grad=True)
    shared = other * 1  # made first, so that its backward runs last, on the gradient that both summands share
    ((gather_with_grad(x) + shared) * randn(WORLD * N, 4)).sum().backward()
    kept["bystander"] = other.grad

    torch.save(kept, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    folder: Path = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.start_processes(process, (str(folder),), nprocs=WORLD, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD)]


@pytest.fixture(scope="module")
def alone() -> tuple[Tensor, Tensor]:
    """Loss and gradient of one process with the whole batch."""
    model = network()
    loss = nt_xent(*(model(x) for x in whole_batch()), 0.2)
    loss.backward()
    return loss.detach(), gradient(model)


def test_rows_of_all_processes_are_gathered_in_rank_order(processes: list[dict[str, Tensor]]):
    for kept in processes:
        assert torch.equal(kept["gathered"], whole_batch()[0])


def test_the_gradient_of_gathered_rows_is_summed_over_the_processes(processes: list[dict[str, Tensor]]):
    for kept in processes:
        assert torch.equal(kept["gathered gradient"], torch.full((N, 4), 1.0 + 2.0))


def test_gathering_leaves_other_gradients_alone(processes: list[dict[str, Tensor]]):
    for kept in processes:
        assert torch.equal(kept["bystander"], randn(WORLD * N, 4))


def test_each_process_has_the_negatives_of_all(processes: list[dict[str, Tensor]], alone: tuple[Tensor, Tensor]):
    losses = torch.stack([kept["loss"] for kept in processes])
    assert losses[0] != losses[1]  # each its own anchors
    assert_close(losses.mean(), alone[0], rtol=1e-6, atol=1e-6)


def test_averaged_gradients_are_those_of_one_process(processes: list[dict[str, Tensor]], alone: tuple[Tensor, Tensor]):
    averaged = torch.stack([kept["gradient"] for kept in processes]).mean(0)
    assert_close(averaged, alone[1], rtol=1e-5, atol=1e-6)


def test_distributed_data_parallel_trains_as_one_process(
    processes: list[dict[str, Tensor]], alone: tuple[Tensor, Tensor]
):
    for kept in processes:
        assert_close(kept["ddp"], alone[1], rtol=1e-5, atol=1e-6)
        assert F.cosine_similarity(kept["ddp"], alone[1], 0) > 1 - 1e-6
