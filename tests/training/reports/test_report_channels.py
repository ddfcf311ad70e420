"""Figures of images with one, two, four and five channels: those that the model was measured on, as RGB."""

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image

from star_training.data.eval_sets.dataset import Splits
from star_training.reports import neighbours
from star_training.reports.loading import gather
from star_zoo import save_pretrained


@pytest.mark.parametrize("channels", [1, 2, 4, 5])
def test_neighbours_show_the_first_channels(channels: int, tmp_path: Path):
    colours = np.arange(30, 30 + 20 * 4 * channels, 20).astype(np.uint8).reshape(4, channels)
    for split in ("train", "test"):
        (tmp_path / "images" / split).mkdir(parents=True)
        for k, colour in enumerate(colours):
            np.save(tmp_path / "images" / split / f"{k}.npy", np.full((56, 56, channels), colour, np.uint8))
    images = str(tmp_path / "images")
    test = Splits(images, channels).test
    details = {"neighbours": {"queries": [1], "invariant": [[0, 2]], "equivariant": [[3, 0]]}}
    record = {"protocol": "routing", "model": "m", "data": "images", "seed": 0, "images": {"test": 4}, "metrics": {}}
    record |= {"data_fingerprint": {"test": test.fingerprint}, "details": details}
    model = timm.create_model("test_resnet", num_classes=0, in_chans=channels)
    run = save_pretrained(tmp_path / "run", model, results={"evaluations": [record]})
    (figure,) = neighbours.draw(gather([str(run)]), Splits(images))
    sheet = np.array(Image.open(io.BytesIO(figure.png)).convert("RGB")).tolist()
    expected = [[*colour[:3]] if channels > 2 else [colour[0]] * 3 for colour in colours[[1, 0, 2, 3, 0]].tolist()]
    # of the query and of its neighbours, two of each kind, on the line that crosses most of them
    rows = [[list(k) for k, run in itertools.groupby(map(tuple, row)) if len(list(run)) > 30] for row in sheet]
    shown = [[colour for colour in row if colour in expected] for row in rows]
    assert max(shown, key=len) == expected
