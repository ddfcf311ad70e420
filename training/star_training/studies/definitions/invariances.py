"""Tables of a study of policies: which data set needs which invariance, and which policy teaches it.

The policies are the methods of the study's first fusion; all other methods are controls of it. The study's first pair
is compared by seed, with Student's interval over seeds, and with one seed by image, with the interval over images.
"""

from collections.abc import Sequence

from star_catalog.decimals import fixed
from star_catalog.names import slugify

from ...evaluation.metrics import SHARE, Metric
from ...evaluation.protocols.invariance import PAIRED, difference
from ...evaluation.protocols.invariance.probes import GROUPS, TRANSFORMATIONS
from ...reports.tables import Table
from .. import aggregate
from ..outcome import Outcome
from ..study import MEAN, Place, Study

_ACCURACIES = ("linear_accuracy", "knn20_top1")
_POINTS = Metric("", "", SHARE, "", 0.0)  # differences of accuracies, in per cent


def accuracies(study: Study, outcomes: Sequence[Outcome]) -> Table:
    """Returns the accuracy of every method by data set, the best policy, and its lead over the next.

    The best policy is chosen by the numbers that the lead is made of, so the lead is optimistic.
    """
    fusion = study.fusions[0]
    controls = [method.name for method in study.methods if method.name not in fusion.methods]
    names = [column.name for column in study.columns]
    head = ["metric", "data", *names, "best policy", "its lead", f"{fusion.name} - best policy"]
    rows = []
    for place in (Place(slug, data) for slug in _ACCURACIES for data in (*study.data, MEAN)):
        values = {name: list(aggregate.by_seed(study, outcomes, name, place).values()) for name in names}
        if not all(values[name] for name in fusion.methods):
            continue
        metric = aggregate.definition(outcomes, place.metric)
        best, second, *_ = sorted(fusion.methods, key=lambda name: -sum(values[name]) / len(values[name]))
        others = [(best, second), (fusion.name, best), *((fusion.name, control) for control in controls)]
        leads = [_lead(study, outcomes, *pair, place) for pair in others]
        cells = [aggregate.cell(metric, values[name]) for name in names]
        rows.append([metric.title, place.data, *cells, best, *leads])
    return Table("which data set needs which policy", [*head, *(f"{fusion.name} - {c}" for c in controls)], rows)


def _lead(study: Study, outcomes: Sequence[Outcome], first: str, second: str, place: Place) -> str:
    return aggregate.cell(_POINTS, aggregate.difference(study, outcomes, first, second, place))


def cosines(study: Study, outcomes: Sequence[Outcome]) -> Table:
    """Returns the mean cosine of every method by group and by transformation, and the first pair's difference."""
    first, second = study.pairs[0]
    names = [column.name for column in study.columns]
    rows = []
    for moved in (*GROUPS, *TRANSFORMATIONS):
        place = Place(slugify(f"cosine {moved}"), "cifar10")
        metric = aggregate.definition(outcomes, place.metric)
        cells = [aggregate.cell(metric, [*aggregate.by_seed(study, outcomes, name, place).values()]) for name in names]
        between = aggregate.cell(metric, aggregate.difference(study, outcomes, first, second, place))
        group = "mean of the group" if moved in GROUPS else TRANSFORMATIONS[moved].group
        rows.append([moved, group, *cells, between])
    return Table("cosine, 1 is invariant", ["transformation", "group", *names, f"{first} - {second}"], rows)


def pairs_by_image(study: Study, outcomes: Sequence[Outcome]) -> Table:
    """Returns the differences of the first pair's cosines with the interval over the same images, one row per seed."""
    details = {
        (outcome.method, outcome.seed): record["details"]
        for outcome in outcomes
        for record in outcome.content["evaluations"]
        if record["protocol"] == "invariance" and "details" in record
    }
    first, second = study.pairs[0]
    both = sorted(seed for method, seed in details if method == first and (second, seed) in details)
    rows = []
    for seed in both:
        found = (difference(details[first, seed], details[second, seed], name) for name in PAIRED)
        rows.append([str(seed), *(d.text(lambda value: fixed(value, 3, "+")) for d in found)])
    return Table(f"cosine by image, {first} - {second}", ["seed", *PAIRED], rows)
