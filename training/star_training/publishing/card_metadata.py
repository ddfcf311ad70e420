"""The metadata of a card: the YAML block by which the Hub, timm and transformers find and describe a model."""

from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from ..evaluation.record import Record
from .dataset_terms import DataSet
from .markdown import plain

_BACKBONE, _CLASSIFIER = "image-feature-extraction", "image-classification"  # the Hub's names of tasks


def front_matter(
    *,
    title: str,
    own: bool,
    licence: str | None,
    is_classifier: bool,
    tags: Sequence[str],
    data_sets: Sequence[tuple[str, DataSet]],
    records: Sequence[Record],
) -> str:
    """Returns the YAML; `tags` are those of the method.

    The Hub groups results by data set, so each metric carries its protocol as its type.
    """
    task = _CLASSIFIER if is_classifier else _BACKBONE
    transformers = () if own else ("transformers",)  # it uses timm alone
    evaluations = [
        EvalResult(
            task_type=_CLASSIFIER if record.protocol.startswith("finetune") else _BACKBONE,
            dataset_type=plain(record.data),
            dataset_name=plain(record.data),
            metric_type=plain(record.protocol),
            metric_name=plain(metric.name),
            metric_value=metric.value,
        )
        for record in records
        for metric in record.metrics.values()
        if metric.is_accuracy
    ]
    known = dict.fromkeys(data.hub_id for _, data in data_sets if data.hub_id)
    card = ModelCardData(
        library_name="star-zoo" if own else "timm",
        pipeline_tag=task,
        tags=[task, "timm", *transformers, *tags, "star-zoo"],
        license=plain(licence) if licence else "other",
        license_name=None if licence else "not-stated",
        datasets=list(known) or None,
        model_name=plain(title),
        eval_results=evaluations or None,
    )
    return card.to_yaml().strip()
