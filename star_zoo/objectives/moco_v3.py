"""MoCo v3 (Chen, Xie & He, ICCV 2021), for vision transformers: contrast with a momentum copy within the batch.

Letters: D features, O embedding size. Projector of three layers and predictor of two, 4,096 wide, onto 256, a batch
norm after each layer and the last ones without affine; no queue. Section 4.2 freezes the patch embedding, at its random
initialisation, against instability. Its 4,096 are for features of 384 and more; the default here is twice D.
Source: the paper from memory; its text could not be read.
"""

from ..augmentations import Policy
from ..encoder import Encoder
from ..heads import mlp
from . import _papers
from ._agreeing import TwoViews
from ._agreements import PredictedContrast


class MoCoV3(TwoViews):
    """MoCo v3: InfoNCE of predictions with a momentum copy's embeddings of the other view."""

    papers = (_papers.MOCO_V3,)

    def __init__(
        self,
        num_features: int,
        policy: Policy,
        *,
        temperature: float = 0.2,  # of the cross entropy, for transformers; 1.0 for ResNet-50
        momentum: float = 0.99,  # of the copies at the start; rises to 1
        hidden: int | None = None,  # width of the hidden layers of projector and predictor; None: 2 * num_features
        embed_dim: int = 256,  # O, width of the embedding
        freeze_patch_embedding: bool = False,  # keep that of a transformer as initialised
    ):
        hidden = hidden or 2 * num_features
        heads = mlp(num_features, hidden, hidden, embed_dim, norm=True)
        super().__init__(policy, heads, PredictedContrast(embed_dim, hidden, temperature, momentum))
        self.freeze_patch_embedding = freeze_patch_embedding

    def attach(self, encoder: Encoder) -> None:
        """Makes the momentum copies, after freezing the patch embedding if asked to. Raises ValueError without one."""
        if self.freeze_patch_embedding:
            patches = getattr(encoder.backbone, "patch_embed", None)
            if patches is None:
                raise ValueError(
                    f"{type(encoder.backbone).__name__} has no patch embedding; a transformer does, or set "
                    "freeze_patch_embedding=false"
                )
            patches.requires_grad_(False)
        super().attach(encoder)
