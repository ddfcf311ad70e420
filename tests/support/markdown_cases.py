"""An evaluation record as cards show it, and parts of Markdown pages."""

import re

RECORD = {
    "protocol": "linear", "model": "x", "data": "stl10", "seed": 3, "images": {"train": 5000, "test": 8000},
    "settings": {"epochs": 77}, "seconds": 55.5,
    "metrics": {
        "Linear top-1": {"value": 0.87654321, "low": 0.86111111, "high": 0.89222222},
        "20-NN top-1": {"value": 0.7912345, "low": None, "high": None},
    },
}  # fmt: skip


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)
