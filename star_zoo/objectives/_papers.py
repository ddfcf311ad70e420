"""The publications of the methods, which cards cite, and the tags of methods on the Hub."""

from typing import NamedTuple

SELF_SUPERVISED, EQUIVARIANCE = "self-supervised-learning", "equivariance"  # tags
_NEURIPS = "Advances in Neural Information Processing Systems"
_CVPR = "IEEE/CVF Conference on Computer Vision and Pattern Recognition"
_ICML = "International Conference on Machine Learning"
_ICLR = "International Conference on Learning Representations"


class Paper(NamedTuple):
    """A publication; its fields are those of BibTeX. Without `booktitle` it is a preprint."""

    authors: str
    title: str
    booktitle: str
    year: int
    arxiv: str  # its number

    @property
    def bibtex(self) -> str:
        """The BibTeX entry; its key is e.g. chen2020simple, of the first author, the year and the title."""
        words = [word for word in self.title.lower().replace("-", " ").split() if word not in ("a", "an", "the")]
        name = self.authors.partition(",")[0].lower()
        key = "".join(c for c in f"{name}{self.year}{words[0]}" if c.isalnum())
        venue = [f"  booktitle = {{{self.booktitle}}},"] if self.booktitle else []
        lines = [
            f"@{'inproceedings' if self.booktitle else 'misc'}{{{key},",
            f"  title     = {{{self.title}}},",
            f"  author    = {{{self.authors}}},",
            *venue,
            f"  year      = {{{self.year}}},",
            f"  note      = {{arXiv:{self.arxiv}}}",
            "}",
        ]
        return "\n".join(lines)


STAR = Paper(
    "Jeon, Jaebyeong and Jang, Hyeonseo and Sohn, Jy-yong and Lee, Kibok",
    "Soft Task-Aware Routing of Experts for Equivariant Representation Learning",
    _NEURIPS, 2025, "2510.27222",
)  # fmt: skip
EQUIMOD = Paper(
    "Devillers, Alexandre and Lefort, Mathieu",
    "EquiMod: An Equivariance Module to Improve Visual Instance Discrimination",
    _ICLR, 2023, "2211.01244",
)  # fmt: skip
SIMCLR = Paper(
    "Chen, Ting and Kornblith, Simon and Norouzi, Mohammad and Hinton, Geoffrey",
    "A Simple Framework for Contrastive Learning of Visual Representations",
    _ICML, 2020, "2002.05709",
)  # fmt: skip
SIMCLR_GR = Paper(
    "Foster, Adam and Pukdee, Rattana and Rainforth, Tom",
    "Improving Transformation Invariance in Contrastive Representation Learning",
    _ICLR, 2021, "2010.09515",
)  # fmt: skip
SIMSIAM = Paper(
    "Chen, Xinlei and He, Kaiming",
    "Exploring Simple Siamese Representation Learning",
    _CVPR, 2021, "2011.10566",
)  # fmt: skip
BYOL = Paper(
    "Grill, Jean-Bastien and others",
    "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
    _NEURIPS, 2020, "2006.07733",
)  # fmt: skip
MOCO = Paper(
    "He, Kaiming and Fan, Haoqi and Wu, Yuxin and Xie, Saining and Girshick, Ross",
    "Momentum Contrast for Unsupervised Visual Representation Learning",
    _CVPR, 2020, "1911.05722",
)  # fmt: skip
MOCO_V2 = Paper(
    "Chen, Xinlei and Fan, Haoqi and Girshick, Ross and He, Kaiming",
    "Improved Baselines with Momentum Contrastive Learning",
    "", 2020, "2003.04297",
)  # fmt: skip
MOCO_V3 = Paper(
    "Chen, Xinlei and Xie, Saining and He, Kaiming",
    "An Empirical Study of Training Self-Supervised Vision Transformers",
    "IEEE/CVF International Conference on Computer Vision", 2021, "2104.02057",
)  # fmt: skip
BARLOW_TWINS = Paper(
    "Zbontar, Jure and Jing, Li and Misra, Ishan and LeCun, Yann and Deny, Stéphane",
    "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
    _ICML, 2021, "2103.03230",
)  # fmt: skip
VICREG = Paper(
    "Bardes, Adrien and Ponce, Jean and LeCun, Yann",
    "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
    _ICLR, 2022, "2105.04906",
)  # fmt: skip
DISTILLATION = Paper(
    "Hinton, Geoffrey and Vinyals, Oriol and Dean, Jeff",
    "Distilling the Knowledge in a Neural Network",
    "", 2015, "1503.02531",
)  # fmt: skip
FITNETS = Paper(
    "Romero, Adriana and others",
    "FitNets: Hints for Thin Deep Nets",
    _ICLR, 2015, "1412.6550",
)  # fmt: skip
LOOC = Paper(
    "Xiao, Tete and Wang, Xiaolong and Efros, Alexei A. and Darrell, Trevor",
    "What Should Not Be Contrastive in Contrastive Learning",
    _ICLR, 2021, "2008.05659",
)  # fmt: skip
STL = Paper(
    "Yu, Jaemyung and Choi, Jaehyun and Lee, Dong-Jae and Hong, HyeongGwon and Kim, Junmo",
    "Self-supervised Transformation Learning for Equivariant Representations",
    _NEURIPS, 2024, "2501.08712",
)  # fmt: skip
CARE = Paper(
    "Gupta, Sharut and Robinson, Joshua and Lim, Derek and Villar, Soledad and Jegelka, Stefanie",
    "Structuring Representation Geometry with Rotationally Equivariant Contrastive Learning",
    _ICLR, 2024, "2306.13924",
)  # fmt: skip
SER = Paper(
    "Lee, Joohyung and Kim, Changhun and Kim, Hyunsu and Lee, Kwanhyung and Lee, Juho",
    "Soft Equivariance Regularization for Invariant Self-Supervised Learning",
    _ICLR, 2026, "2603.06693",
)  # fmt: skip
CIPER = Paper(
    "Xu, Xia and Triesch, Jochen",
    "CIPER: Combining Invariant and Equivariant Representations Using Contrastive and Predictive Learning",
    "", 2023, "2302.02330",
)  # fmt: skip
AUGSELF = Paper(
    "Lee, Hankook and Lee, Kibok and Lee, Kimin and Lee, Honglak and Shin, Jinwoo",
    "Improving Transferability of Representations via Augmentation-Aware Self-Supervision",
    _NEURIPS, 2021, "2111.09613",
)  # fmt: skip
ESSL = Paper(
    "Dangovski, Rumen and Jing, Li and Loh, Charlotte and Han, Seungwook and Srivastava, Akash and Cheung, Brian and "
    "Agrawal, Pulkit and Soljačić, Marin",
    "Equivariant Contrastive Learning",
    _ICLR, 2022, "2111.00899",
)  # fmt: skip
ROTATIONS = Paper(
    "Gidaris, Spyros and Singh, Praveer and Komodakis, Nikos",
    "Unsupervised Representation Learning by Predicting Image Rotations",
    _ICLR, 2018, "1803.07728",
)  # fmt: skip
ROLE_OF_EQUIVARIANCE = Paper(
    "Wang, Yifei and Hu, Kaiwen and Gupta, Sharut and Ye, Ziyu and Wang, Yisen and Jegelka, Stefanie",
    "Understanding the Role of Equivariance in Self-supervised Learning",
    _NEURIPS, 2024, "2411.06508",
)  # fmt: skip
INV_EQ = Paper(
    "Rizve, Mamshad Nayeem and Khan, Salman and Khan, Fahad Shahbaz and Shah, Mubarak",
    "Exploring Complementary Strengths of Invariant and Equivariant Representations for Few-Shot Learning",
    _CVPR, 2021, "2103.01315",
)  # fmt: skip
GROUPS = Paper(
    "Mukuta, Yusuke and Harada, Tatsuya",
    "Self-Supervised Learning for Group Equivariant Neural Networks",
    "", 2023, "2303.04427",
)  # fmt: skip
GIAE = Paper(
    "Winter, Robin and Bertolini, Marco and Le, Tuan and Noé, Frank and Clevert, Djork-Arné",
    "Unsupervised Learning of Group Invariant and Equivariant Representations",
    _NEURIPS, 2022, "2202.07559",
)  # fmt: skip
CANONICALIZATION = Paper(
    "Mondal, Arnab Kumar and Panigrahi, Siba Smarak and Kaba, Oumar and Mudumba, Sai Rajeswar and Ravanbakhsh, Siamak",
    "Equivariant Adaptation of Large Pretrained Models",
    _NEURIPS, 2023, "2310.01647",
)  # fmt: skip
