"""Aggregates the runs of a study: means over seeds, differences by seed, and verdicts on the claims."""

import math
from collections.abc import Sequence

from star_catalog.decimals import fixed, significant

from ..evaluation.metrics import Metric, of_runs
from ..evaluation.record import Record
from ..reports.loading import Shown
from ..reports.tables import Table
from .outcome import Outcome
from .study import Comparison, Place, Study

_PARTLY = "in part"  # the verdict on a claim whose comparisons have different ones
MINUS = " - "  # between the two methods of a pair


def places(study: Study, outcomes: Sequence[Outcome]) -> list[Place]:
    """Returns every number that any run has, and the mean of each metric that was measured on all transfer sets."""
    found = dict.fromkeys(place for outcome in outcomes for place in outcome.metrics)
    metrics = dict.fromkeys(metric for metric, _ in found)
    means = [m for m in metrics if study.transfer and all((m, name) in found for name in study.transfer)]
    return [*(Place(*place) for place in found), *(Place(metric) for metric in means)]


def shown(study: Study, outcomes: Sequence[Outcome]) -> list[str]:
    """Returns the slugs of the metrics of the tables: those of the study, or else of all metrics, each number once.

    An accuracy also has the slug of its mean over data sets, under which it is shown if there are several to average.
    """
    if study.shown:
        return list(study.shown)
    metrics = [metric for outcome in outcomes for metric in outcome.metrics.values()]
    averaged = {metric.slug: metric.averaged_as[0] for metric in metrics if metric.averaged_as}
    twice = averaged.keys() if len(study.transfer) > 1 else set(averaged.values())
    return [slug for slug in dict.fromkeys(metric.slug for metric in metrics) if slug not in twice]


def by_seed(study: Study, outcomes: Sequence[Outcome], method: str, place: Place) -> dict[int, float]:
    """Returns a method's number for each seed that has it."""
    found = {o.seed: o.number(*place, study.transfer) for o in outcomes if o.method == method}
    return {seed: value for seed, value in found.items() if value is not None}


def difference(study: Study, outcomes: Sequence[Outcome], better: str, worse: str, place: Place) -> list[float]:
    """Returns `better` minus `worse` for each seed that both have, or the number of `better` if `worse` is empty.

    The start is the same for every seed.
    """
    first = by_seed(study, outcomes, better, place)
    if not worse:
        return list(first.values())
    second = by_seed(study, outcomes, worse, place)
    if study.start and worse == study.start.name:
        second = {seed: value for seed in first for value in second.values()}
    if study.start and better == study.start.name:
        first = {seed: value for seed in second for value in first.values()}
    return [first[seed] - second[seed] for seed in sorted(first.keys() & second.keys())]


def headline(study: Study, outcomes: Sequence[Outcome]) -> Table:
    """Returns one row per method and one column per headline number: means over seeds, shares in per cent."""
    metrics = [definition(outcomes, place.metric) for place in study.headline]
    places = (f" ({place.data})" if place.data else "" for place in study.headline)
    heads = (f"{metric.title}{place}" for metric, place in zip(metrics, places, strict=True))
    rows = []
    for method in study.columns:
        values = [list(by_seed(study, outcomes, method.name, place).values()) for place in study.headline]
        seeds = len({o.seed for o in outcomes if o.method == method.name})
        rows.append([method.name, str(seeds), *map(cell, metrics, values)])
    return Table("in short", ["method", "seeds", *heads], rows)


def definition(outcomes: Sequence[Outcome], slug: str) -> Metric:
    """Returns the metric of that slug of the first run that has it; named by its slug if no run has it."""
    found = (metric for outcome in outcomes for metric in outcome.metrics.values() if metric.slug == slug)
    return next(found, Metric(slug, slug, "", "", math.nan))


def cell(metric: Metric, values: list[float]) -> str:
    """Returns the mean and half the width of its interval."""
    if not values:
        return "-"
    found, unit = of_runs(values), 100 if metric.is_share else 1
    spread = "" if found.high is None else f" ± {unit * (found.high - found.value):.{metric.digits}f}"
    return f"{fixed(unit * found.value, metric.digits)}{spread}"


def averaged(study: Study, outcomes: Sequence[Outcome]) -> list[Shown]:
    """Returns one column per method: means over its seeds with Student's intervals."""
    return [
        _shown(
            outcomes, m.name, {p: list(by_seed(study, outcomes, m.name, p).values()) for p in places(study, outcomes)}
        )
        for m in study.columns
    ]


def differences(study: Study, outcomes: Sequence[Outcome]) -> list[Shown]:
    """Returns one column per pair: mean differences by seed with Student's intervals."""
    return [
        _shown(outcomes, f"{a}{MINUS}{b}", {p: difference(study, outcomes, a, b, p) for p in places(study, outcomes)})
        for a, b in study.pairs
    ]


def _shown(outcomes: Sequence[Outcome], label: str, values: dict[Place, list[float]]) -> Shown:
    records = []
    for (slug, data), found in values.items():
        if found:
            metric = definition(outcomes, slug)._replace(**of_runs(found)._asdict())
            records.append(Record(protocol="study", data=data, seed=0, metrics={slug: metric}))
    return Shown(label, None, [], records)


def verdicts(study: Study, outcomes: Sequence[Outcome]) -> Table:
    """Returns every claim with its verdict: shown, contradicted, not shown, or not tested.

    A comparison is shown if Student's 95 % interval of the differences by seed lies on the claim's side of 0, and
    contradicted if it lies on the other side. A single seed shows nothing. A claim is shown in part if its comparisons
    have different verdicts, which then follow their numbers.
    """
    rows = []
    for claim in study.claims:
        found = [_judged(study, outcomes, c) for c in claim.comparisons]
        verdict = _verdict([verdict for verdict, _ in found])
        texts = [f"{text} ({own})" if verdict == _PARTLY else text for own, text in found]
        reasons = "; ".join([*texts, *([claim.note] if claim.note else [])])
        rows.append([claim.name, claim.says, verdict, reasons])
    return Table("claims", ["claim", "says", "found", "by"], rows)


def _verdict(found: list[str]) -> str:
    known = [verdict for verdict in found if verdict != "not measured"]
    if not known:
        return "not tested"
    if len(set(known)) == 1:
        return known[0]
    return _PARTLY


def _judged(study: Study, outcomes: Sequence[Outcome], c: Comparison) -> tuple[str, str]:
    """Returns the verdict on one comparison, and its numbers as text."""
    values = difference(study, outcomes, c.better, c.worse, Place(c.metric, c.data))
    metric = definition(outcomes, c.metric)
    of = f"{c.better}{MINUS}{c.worse}" if c.worse else c.better
    compared = f"{metric.name}{f' on {c.data}' if c.data else ''}, {of}"
    if not values:
        return "not measured", f"{compared}: not measured"
    found, unit, sign = of_runs(values), 100 if metric.is_share else 1, "+" if c.worse else ""
    numbers = f"{compared}: {found.text(lambda value: significant(unit * value, 3, sign))}"
    if not c.worse:
        numbers += f", compared with {unit * c.than:g}"
    if found.low is None or found.high is None:
        return "not shown", f"{numbers} (one seed)"
    side = "shown" if (found.high < c.than) == c.lower else "contradicted"
    verdict = "not shown" if found.low <= c.than <= found.high else side
    return verdict, numbers
