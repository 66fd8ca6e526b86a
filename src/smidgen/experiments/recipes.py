"""Recipes: TOML files that state a fit, its seeds, and the evidence to simulate."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from smidgen.config import Config, from_table
from smidgen.errors import Damaged, InputError, unknown
from smidgen.evidence.kinds import KINDS
from smidgen.evidence.simulation import Simulation
from smidgen.options import convert, field_types
from smidgen.schemas import decode_toml
from smidgen.setup.options import with_options

DEFAULT_BAGS = 2000
SEEDS = ("seeds", "seed")
"""The settings that say which runs there are, not what is run."""

_ABOUT_BAGS = (
    "ucc",
    "bag_size",
    "composition",
    "disjoint",
    "short",
    "counts",
    "proportions",
    "class_counts",
    "presence",
)


@dataclass(frozen=True)
class Recipe:
    """A fit to be run with several seeds.

    name: of its file, without .toml. config: of every run, but for what the seed decides. seeds: one run each.
    simulation: the evidence to make from the known classes of the training images; evidence_seed: what it is drawn by,
    None for the seed of the run, so that the spread of the scores has that of the evidence in it.
    text: the file itself.
    """

    name: str
    config: Config
    seeds: tuple[int, ...]
    simulation: Simulation | None = None
    evidence_seed: int | None = None
    text: str = field(default="", repr=False)

    def of_seed(self, seed: int) -> Config:
        """Return the configuration of one run; `{seed}` in `init_from` is that run's."""
        start = self.config.init_from
        return dataclasses.replace(
            self.config, seed=seed, init_from=None if start is None else start.replace("{seed}", str(seed))
        )


@dataclass(frozen=True)
class Variants:
    """Several configurations in one file, to be held against each other.

    name: of the file, without .toml. recipes: each variant as a recipe of its own, by its name, in the file's order;
    its text is what it comes to. text: the file itself.
    """

    name: str
    recipes: Mapping[str, Recipe]
    text: str = field(default="", repr=False)


def own_recipes() -> dict[str, Path]:
    """Return name → file of the recipes behind smidgen's own figures: the checkout's, or those packed into a wheel."""
    package = Path(__file__).parents[1]
    folders = (package / "_recipes", package.parents[1] / "recipes")
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}


def find_recipe(path: Path | str) -> Path:
    """Return the file a recipe is read from: the path itself, or smidgen's own recipe of that name if there is none.

    >>> find_recipe("mnist_none").name, find_recipe("recipes/mnist_none.toml").name
    ('mnist_none.toml', 'mnist_none.toml')
    """
    path = Path(path)
    own = own_recipes()
    spellings = (path.stem, f"{path.stem}.toml", f"recipes/{path.stem}.toml")
    return own[path.stem] if not path.exists() and path.stem in own and path.as_posix() in spellings else path


def read_recipe(path: Path | str) -> Recipe | Variants:
    """Return the recipe in a TOML file: the settings of `Config`, `seeds`, a table `[simulate]`, and `[variants]`.

    Where there are `[variants]`, each is a table of settings over those above it: tables such as `options` are merged
    key by key, anything else is replaced. Every variant is checked.

    `seeds` is a list; instead of it `seed` may say one. `[simulate]` has the fields of `Simulation`, with `bags` for
    `n_bags`, ranges as lists (`ucc = [1, 4]`), and `seed`; as for `smidgen simulate`, what speaks of bags asks for
    2,000, and counts are told unless something else is. Paths are relative to where the command runs.
    Raises InputError, naming the file, for whatever is wrong with it; method and options are checked too.
    """
    path = find_recipe(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.stem, own_recipes(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"There is no recipe {str(path)!r}: give the path of a TOML file, or a name in `smidgen list recipes`."
            f"{hint}"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{str(path)!r} is a folder: give the path of one recipe, a TOML file.") from None
    except UnicodeDecodeError:
        raise InputError(f"{str(path)!r} is not a recipe: it is not text in UTF-8.") from None
    try:
        return parse_recipe(path.stem, text)
    except Damaged as error:
        raise InputError(f"{str(path)!r} is not TOML ({error}).") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def parse_recipe(name: str, text: str) -> Recipe | Variants:
    """Return the recipe in the text of a TOML file, see `read_recipe`; name: of the file, without .toml."""
    table = decode_toml(text)
    if "variants" not in table:
        return _recipe(name, table, text)
    variants = table.pop("variants")
    convert("variants", variants, Mapping, strict=True)
    if not variants:
        raise InputError("`[variants]` holds none: give each a table, `[variants.NAME]`, or leave it out.")
    recipes = {}
    for variant, settings in variants.items():
        comment = f"# variant {variant!r} of {f'{name}.toml'!r}\n\n"
        try:
            recipes[variant] = _variant(variant, table, settings, comment=comment)
        except InputError as error:
            raise InputError(f"variant {variant!r}: {error}") from None
    return Variants(name, recipes, text)


def _variant(name: str, above: Mapping[str, Any], settings: Any, *, comment: str) -> Recipe:
    """Return the recipe that a variant's settings make of those above it."""
    if not isinstance(settings, Mapping):
        raise InputError(f"it must be a table of settings, got {settings!r}.")
    if not settings.keys().isdisjoint(SEEDS):  # either replaces the other
        above = {key: value for key, value in above.items() if key not in SEEDS}
    table = merged(above, settings)
    return _recipe(name, table, comment + tomli_w.dumps(table))


def merged(table: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table with another one laid over it: tables key by key, anything else replaced.

    >>> merged({"size": 8, "options": {"steps": 9, "ucc": "1-4"}}, {"size": 16, "options": {"ucc": "2-4"}})
    {'size': 16, 'options': {'steps': 9, 'ucc': '2-4'}}
    """
    result = dict(table)
    for key, value in over.items():
        below = table.get(key)
        result[key] = merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def _recipe(name: str, table: Mapping[str, Any], text: str) -> Recipe:
    table = dict(table)
    known = [*(f.name for f in dataclasses.fields(Config)), "seeds", "simulate", "variants"]
    for key in table:
        if key not in known:
            raise unknown("setting", key, known)
    seeds = _seeds(table.pop("seeds", None), table.get("seed"))
    simulated = table.pop("simulate", None)
    config = from_table(table)
    with_options(config)  # may refuse; each fit makes its own
    for kind, evidence_path in config.evidence.items():
        if kind not in KINDS:
            raise unknown("kind of evidence", kind, KINDS)
        convert(f"evidence.{kind}", evidence_path, str, strict=True)
    if simulated is None:
        return Recipe(name, config, seeds, text=text)
    if config.evidence:
        raise InputError("Give the files of `[evidence]` or `[simulate]`, not both.")
    convert("simulate", simulated, Mapping, strict=True)
    simulated = dict(simulated)
    evidence_seed = simulated.pop("seed", None)
    if evidence_seed is not None:
        _check_seed("simulate.seed", evidence_seed)
    return Recipe(name, config, seeds, _simulation(simulated), evidence_seed, text)


def _seeds(seeds: Any, seed: Any) -> tuple[int, ...]:
    if seeds is None:
        seeds = [0 if seed is None else seed]
    elif seed is not None:
        raise InputError("Give `seeds` or `seed`, not both.")
    if not isinstance(seeds, list) or not seeds:
        raise InputError(f"`seeds` must be a list of whole numbers like [0, 1, 2], got {seeds!r}.")
    for each in seeds:
        _check_seed("seeds", each)
    if len(set(seeds)) < len(seeds):
        raise InputError(f"`seeds` must be different numbers, got {seeds!r}.")
    return tuple(seeds)


def _check_seed(name: str, value: Any) -> None:
    convert(name, value, field_types(Config)["seed"], strict=True)


def _simulation(table: Mapping[str, Any]) -> Simulation:
    """Return what `[simulate]` asks for."""
    kinds = typing.get_type_hints(Simulation)
    kinds["bags"] = kinds.pop("n_bags")
    given: dict[str, Any] = {}
    for name, value in table.items():
        if name not in kinds:
            raise unknown("setting of [simulate]", name, [*kinds, "seed"])
        if name in ("ucc", "bag_size"):
            given[name] = _range(name, value)
        else:
            convert(name, value, kinds[name], strict=True)
            given["n_bags" if name == "bags" else name] = value
    if not (about_bags := any(name in given for name in _ABOUT_BAGS)) and not given.keys() - {"wrong"}:
        raise InputError(
            "`[simulate]` asks for nothing: say `bags`, `labels_per_class`, `label_fraction`, `partial` or `pairs`."
        )
    given.setdefault("n_bags", DEFAULT_BAGS if about_bags else 0)
    given.setdefault("counts", not any(given.get(name) for name in ("proportions", "class_counts", "presence")))
    return Simulation(**given)


def _range(name: str, value: Any) -> tuple[int, int]:
    """Return a range given as [least, most], or as one number.

    >>> _range("ucc", [1, 4]), _range("bag_size", 32)
    ((1, 4), (32, 32))
    """
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2 or any(not isinstance(end, int) or isinstance(end, bool) for end in ends):
        raise InputError(f"`{name}` must be a whole number or a range like [1, 4], got {value!r}.")
    return ends[0], ends[1]
