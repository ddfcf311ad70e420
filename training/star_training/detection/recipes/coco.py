"""COCO photos, for a CPU."""

from ..recipe import DetectionData, DetectionLoop, DetectionRecipe


def coco256(model: str) -> DetectionRecipe:
    """Our smoke test on a CPU, 128 COCO photos at 160 px. It tests that everything works, not how good a model is.

    In bfloat16, where the CPU supports it, it takes 0.6 of the time.
    """
    return DetectionRecipe(
        name="coco256",
        model=model,
        head="fpn",
        data=DetectionData(source="coco256_det.parquet"),
        steps=300,
        milestones=(200, 270),
        warmup=50,
        batch_size=4,
        clip=10.0,
        sizes=(128, 192, 32),
        test_size=160,
        longest=256,
        anchor=8,
        regions=64,
        norm_batches=20,
        run=DetectionLoop(workers=0, checkpoint_every=100),
    )
