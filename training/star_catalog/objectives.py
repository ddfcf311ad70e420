"""The names of the objectives; star_zoo.objectives holds the objectives themselves."""

from .names import modules, not_found


def known() -> tuple[str, ...]:
    """Returns the names of star_zoo's objectives, sorted."""
    return modules("star_zoo.objectives")


def check(name: str) -> None:
    """Raises ValueError for a name that is neither an objective of star_zoo nor a dotted path; imports nothing."""
    if "." not in name and name not in known():
        hint = "a module outside star_zoo needs its dotted path, e.g. my_package.my_objective"
        raise ValueError(f"{not_found('objective', name, known())}; {hint}")
