"""The card of an exported model: its README.md, filled from what the run itself recorded, never by hand."""

import string
from pathlib import Path
from typing import Any

from .config import Recipe

TEMPLATE = Path(__file__).parent.parent / "hub_cards" / "TEMPLATE.md"  # the wheel keeps this layout


def render(recipe: Recipe, backbone: Any, results: dict[str, Any], folder: Path) -> str:
    """The card's Markdown for a backbone that the recipe made, with the results that a finished run gives."""
    cost = results["training"]
    return string.Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"{recipe.name}, {recipe.objective}",
        architecture=recipe.backbone.removeprefix("star_").partition(".")[0],
        parameters=f"{sum(p.numel() for p in backbone.parameters()) / 1e6:.1f}",
        features=backbone.head_hidden_size,
        objective=recipe.objective,
        data=Path(recipe.data.source).name,
        size=recipe.policy.size,
        folder=folder.as_posix(),
        recipe=recipe.name,
        images=f"{cost['images']:,}",
        steps=f"{cost['steps']:,}",
        hours=f"{cost['seconds'] / 3600:.2f}",
        processes=cost["processes"],
        device=cost["device"].upper(),
        torch=cost["versions"]["torch"],
        timm=cost["versions"]["timm"],
        evaluations=_evaluations(results["online"]),
    )


def _evaluations(online: list[dict[str, Any]]) -> str:
    if not online:
        return "Nothing was measured: the images had no held-out labels."
    first, last = online
    names = [name for name in last if name not in ("step", "epoch")]
    rows = [f"| {name} | {first[name]:.3f} | {last[name]:.3f} |" for name in names]
    head = "Frozen features on held-out images, measured online during the run (at most 5,000 and 2,000 images):"
    return "\n".join((head, "", "| metric | untrained | trained |", "|---|---|---|", *rows))
