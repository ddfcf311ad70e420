"""The released STAR model as the authors' script builds it, written from the paper: an independent reference."""

from itertools import pairwise
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from star_zoo import released

EXPERTS, D, O = 3, 512, 128  # noqa: E741


def their_mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths[:-1]):
        layers += [nn.Linear(fan_in, fan_out, bias=False), nn.BatchNorm1d(fan_out), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def their_nt_xent(a: Tensor, b: Tensor) -> Tensor:
    """Anchor by anchor: -log of the positive's share among all others."""
    rows = torch.cat([a, b])
    losses = []
    for i, anchor in enumerate(rows):
        scores = torch.cosine_similarity(anchor, rows, dim=1) / 0.2
        others = torch.cat([scores[:i], scores[i + 1 :]])
        losses.append(others.logsumexp(0) - scores[(i + len(a)) % len(rows)])
    return torch.stack(losses).mean()


class Theirs(nn.Module):
    """The released modules under the released names."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = torchvision.models.resnet18(zero_init_residual=True)
        self.backbone.fc = nn.Identity()
        self.projectors = nn.ModuleList(their_mlp(D, D, D, O) for _ in range(EXPERTS))
        self.p_projector = their_mlp(11, O)
        self.eq_predictor = their_mlp(2 * O, 4 * O, 4 * O, O)
        self.gatingnetwork = nn.Module()
        self.gatingnetwork.gating_fc = nn.ModuleList(nn.Linear(D, EXPERTS) for _ in range(2))

    def embed(self, features: Tensor) -> tuple[Tensor, Tensor]:
        outputs = [project(features) for project in self.projectors]
        gates = [gate(features).softmax(-1) for gate in self.gatingnetwork.gating_fc]
        inv, eq = (sum(g[:, e : e + 1] * out for e, out in enumerate(outputs)) for g in gates)
        return inv, eq

    def predict(self, eq0: Tensor, params: Tensor) -> Tensor:
        mean, std = (torch.tensor(s) for s in released.policy("stl10").statistics)
        encoded = self.p_projector((params - mean) / std)
        return eq0 + self.eq_predictor(torch.cat([eq0, encoded], 1))

    def terms(self, features: list[Tensor], params: list[Tensor]) -> dict[str, Tensor]:
        (_, eq0), (inv1, eq1), (inv2, eq2) = (self.embed(f) for f in features)
        predicted = [self.predict(eq0, p) for p in params[1:]]
        return {
            "invariant": their_nt_xent(inv1, inv2),
            "equivariant": their_nt_xent(torch.cat([eq1, eq2]), torch.cat(predicted)),
        }

    def checkpoint(self, path: Path, ddp: bool = False) -> Path:
        """As their logger saves it; under DDP each expert is wrapped alone, so that its names carry "module."."""
        groups: dict = {name: child.state_dict() for name, child in self.named_children()}
        if ddp:
            groups["projectors"] = {
                f"{name.split('.', 1)[0]}.module.{name.split('.', 1)[1]}": t for name, t in groups["projectors"].items()
            }
            groups["backbone"] = {f"module.{name}": t for name, t in groups["backbone"].items()}
        optimizer = torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9)
        torch.save({**groups, "optimizers": [optimizer.state_dict()], "schedulers": [{"last_epoch": 200}]}, path)
        return path
