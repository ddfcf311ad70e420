"""The paper's detection on Pascal VOC."""

from ..recipe import DetectionData, DetectionRecipe


def voc0712_c4(model: str) -> DetectionRecipe:
    """The paper's recipe: Faster R-CNN C4 on VOC07+12 trainval, tested on VOC07. Not run by us.

    `data.source` is a VOCdevkit folder with VOC2007 and VOC2012. Source: MoCo's config
    (detection/configs/pascal_voc_R_50_C4_24k_moco.yaml), which AugSelf's and STL's protocols are assumed to follow.
    Cost: 24,000 steps of 16 images of about 640 x 850 pixels; MoCo uses 8 GPUs with 2 images each. torchvision differs
    from detectron2: regression losses are smooth L1 with a quadratic part below 1/9 instead of L1, regions are pooled
    without the half-pixel shift, and batches aren't grouped by aspect ratio.
    """
    return DetectionRecipe(
        name="voc0712_c4",
        model=model,
        head="c4",
        data=DetectionData(source="VOCdevkit", train="VOC2007/trainval+VOC2012/trainval", test="VOC2007/test"),
        steps=24_000,
        milestones=(18_000, 22_000),
        warmup=100,
        precision="no",  # as MoCo's config
    )
