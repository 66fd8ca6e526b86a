"""Sweeps: every method with every amount of supervision, as the variants of one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from smidgen.errors import InputError
from smidgen.experiments.recipes import Variants, parse_recipe
from smidgen.methods import FUSION, FUSION_METHODS, has_option, method_class
from smidgen.reports.grid import Grid


@dataclass(frozen=True)
class Level:
    """An amount of supervision: its title on the axis, the evidence to simulate, None for none, and its kind."""

    title: str
    simulate: Mapping[str, Any] | None
    kind: str = "labels"


@dataclass(frozen=True)
class Sweep:
    """What to fit: each method at each level, with several seeds.

    name: of the recipe. settings: of every fit, as `Config` has them, `data` among them. methods: names. levels: in the
    order of the axis. axis: its title. seeds: one run each, which also draws the evidence. options: of methods, by the
    method's name; those under "" go to every method that has them.
    """

    name: str
    settings: Mapping[str, Any]
    methods: Sequence[str]
    levels: Sequence[Level]
    axis: str
    seeds: Sequence[int] = (0,)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def label_levels(per_class: Sequence[int | None], fractions: Sequence[float] = ()) -> list[Level]:
    """Return the levels of so many labels a class, and of such shares of all images, fewest first.

    per_class: 0 for no labels, None for those of all images. Raises InputError if a level is there twice.

    >>> [level.title for level in label_levels([10, 0, None], [0.01])]
    ['0', '10', '1 %', 'all']
    """
    numbers = sorted(n for n in per_class if n is not None)
    levels = [Level(str(n), {"labels_per_class": n} if n else None) for n in numbers]
    shares = [Level(f"{100 * share:g} %", {"label_fraction": share}) for share in sorted(fractions)]
    last = [Level("all", {"label_fraction": 1.0})] * sum(n is None for n in per_class)
    levels = [*levels, *shares, *last]
    titles = [level.title for level in levels]
    if repeated := [title for title in titles if titles.count(title) > 1]:
        raise InputError(f"The amount of labels {repeated[0]!r} is given more than once.")
    return levels


def ladder_levels(*, bags: int, bag_size: int, ucc: int, labels_per_class: Sequence[int]) -> list[Level]:
    """Return the levels of growing effort: nothing, counts, proportions, some labels a class, and those of all images.

    bags: how many of them counts and proportions are of; bag_size: images in each; ucc: most classes in one.

    >>> [level.title for level in ladder_levels(bags=9, bag_size=4, ucc=2, labels_per_class=[5, 1])]
    ['nothing', 'counts', 'proportions', '1 a class', '5 a class', 'all labels']
    """
    of_bags = {"bags": bags, "bag_size": bag_size, "ucc": [1, min(ucc, bag_size)]}
    return [
        Level("nothing", None, "none"),
        Level("counts", of_bags | {"counts": True}, "counts"),
        Level("proportions", of_bags | {"counts": False, "proportions": True}, "proportions"),
        *(Level(f"{n} a class", {"labels_per_class": n}) for n in sorted(labels_per_class)),
        Level("all labels", {"label_fraction": 1.0}),
    ]


def variants_of(sweep: Sweep) -> tuple[Variants, Grid]:
    """Return a sweep as variants of a recipe, and where each stands in its table.

    A method is left out where a level has nothing that it learns from: `supervised` without labels, `sela` with some.
    Raises InputError for unknown methods and options, and if no method learns from any level.
    """
    variants: dict[str, Any] = {}
    cells: dict[tuple[str, str], str] = {}
    for method in sweep.methods:
        options = _options(method, sweep.options)
        for level in sweep.levels:
            if _has_use(method, level):
                name = cells[method, level.title] = f"{method}, {level.title}"
                simulate = {} if level.simulate is None else {"simulate": dict(level.simulate)}
                variants[name] = {"method": method, **({"options": options} if options else {}), **simulate}
    if not variants:
        raise InputError(f"None of {', '.join(sweep.methods)} learns from what is swept: choose other methods.")
    table = {**sweep.settings, "seeds": list(sweep.seeds), "variants": variants}
    found = parse_recipe(sweep.name, tomli_w.dumps(table))
    assert isinstance(found, Variants)
    titles, kinds = zip(*((level.title, level.kind) for level in sweep.levels), strict=True)
    return found, Grid(sweep.axis, tuple(sweep.methods), titles, cells, kinds)


def _has_use(method: str, level: Level) -> bool:
    use = method_class(FUSION_METHODS[0] if method == FUSION else method).evidence_use
    return not use.needs_labels if level.simulate is None else level.kind in use.kinds


def _options(method: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return a method's options: those of its own, over those for all that it has."""
    common = {name: value for name, value in options.get("", {}).items() if has_option(method, name, value)}
    return common | dict(options.get(method, {}))
