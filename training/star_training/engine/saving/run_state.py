"""The state for bit-exact resume: weights, optimiser, random states, loss scaler."""

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from .checkpoint import pack_optimizer, unpack_optimizer


def capture(module: nn.Module, optimizer: Any, accelerator: Accelerator) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Returns the state as named tensors and JSON. Every process must call it, because it gathers random states."""
    random = {"cpu": torch.get_rng_state()}
    if accelerator.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state()
    everyones = gather_object([random])
    packed, numbers = pack_optimizer(optimizer.state_dict())
    tensors = {f"model.{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"optimizer.{k}": v for k, v in packed.items()}
    tensors |= {f"random.{rank}.{k}": v for rank, own in enumerate(everyones) for k, v in own.items()}
    return tensors, {"optimizer": numbers, "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {}}


def restore(
    tensors: dict[str, Tensor], state: dict[str, Any], module: nn.Module, optimizer: Any, accelerator: Accelerator
) -> None:
    """Restores the state of `capture`. A process that the saved run did not have keeps its own random state."""

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    module.load_state_dict(part("model."))
    params = [p for group in optimizer.param_groups for p in group["params"]]
    optimizer.load_state_dict(unpack_optimizer(part("optimizer."), state["optimizer"], params))
    if accelerator.scaler and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    random = part(f"random.{accelerator.process_index}.")
    if "cpu" in random:
        torch.set_rng_state(random["cpu"])
    if "cuda" in random and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"])
