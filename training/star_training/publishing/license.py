"""The licence that a saved model states, in the config.json that timm reads."""

import json
from pathlib import Path

from star_catalog.files import write_json


def state(config: Path, licence: str) -> None:
    """Writes a licence, as its SPDX name in lower case, into a config.json; cards state that licence."""
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings["pretrained_cfg"]["license"] = licence
    write_json(config, settings)
