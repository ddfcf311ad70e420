"""A small data set that a classifier learns in seconds, and the settings of a fine-tuning run on it."""

from pathlib import Path

import numpy as np
from PIL import Image

from star_training.finetuning.config import FineTune, LabelledData
from star_training.settings.base import override

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40)}


def coloured(folder: Path, train: int = 48, test: int = 24, classes: tuple[str, ...] = tuple(COLOURS)) -> Path:
    """Noisy images whose class is their colour, of sizes around 40 pixels, in class folders of both splits."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        for k in range(count):
            name = classes[k % len(classes)]
            noise = random.normal(COLOURS[name], 40, (40 + k % 5, 44, 3)).clip(0, 255).astype(np.uint8)
            path = folder / split / name / f"{k:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(path)
    return folder


def tiny(images: Path | str, *changes: str, model: str = "untrained:test_resnet") -> FineTune:
    """Two epochs of six steps of eight images of 32 pixels."""
    small = ("views.size=32", "epochs=2", "batch_size=8", "run.workers=0", "run.log_every=1", "precision=no")
    return override(FineTune(model=model, data=LabelledData(source=str(images))), [*small, *changes])


# the two ways to fine-tune without star-zoo that training/README.md shows
TRAIN = """\
python train.py --data-dir images --val-split test --num-classes 3 \
--model local-dir:star-zoo-quickstart/export --pretrained --opt adamw --lr 1e-3 --weight-decay 0.05 \
--epochs 30 --batch-size 32 --amp --amp-dtype bfloat16"""
PLAIN = """\
import timm, torch
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

folders = {split: ImageFolder(f"images/{split}") for split in ("train", "test")}
classes = len(folders["train"].classes)
model = timm.create_model("local-dir:star-zoo-quickstart/export", pretrained=True, num_classes=classes)
config = resolve_model_data_config(model)  # size, mean and std of the pretraining
for split, folder in folders.items():
    folder.transform = create_transform(**config, is_training=split == "train")

batches, epochs = DataLoader(folders["train"], batch_size=16, shuffle=True), 5
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(batches))
for epoch in range(epochs):
    model.train()
    for images, labels in batches:
        torch.nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
        optimizer.step(), schedule.step(), optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        hits = [model(images).argmax(1) == labels for images, labels in DataLoader(folders["test"], batch_size=16)]
    print(f"epoch {epoch + 1}: {torch.cat(hits).float().mean():.1%} of the test images are correct")
"""
