"""Recipes as files: each of ours is valid, and what is wrong with one is said with its name."""

from pathlib import Path

import pytest

from smidgen.config import Config
from smidgen.data.datasets import DATASETS
from smidgen.errors import InputError
from smidgen.evidence.simulation import Simulation
from smidgen.experiments.recipes import Variants, merged, read_recipe

ROOT = Path(__file__).parents[2]
OURS = sorted((ROOT / "recipes").glob("*.toml"))


@pytest.fixture
def write(tmp_path):
    def to(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return to


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.stem)
def test_our_recipes_are_valid_and_have_their_header(path):
    recipe = read_recipe(path)
    for config in (each.config for each in (recipe.recipes.values() if isinstance(recipe, Variants) else [recipe])):
        assert config.data in {*DATASETS, "cifar10-jpeg.tar", "collections/weather.tar", "collections/flowers.tar"}
        assert config.init_from is None or (path.parent / f"{Path(config.init_from).parent.name}.toml").exists()
    header = [line.partition(":")[0] for line in recipe.text.splitlines() if line.startswith("#")]
    assert {"# source", "# command", "# measured"} <= set(header)
    assert f"smidgen run recipes/{path.name}" in recipe.text


def test_the_tables_of_the_issue_are_there():
    assert {"mnist_none", "mnist_ucc_even", "mnist_labels_1", "mnist_kmeans"} <= {path.stem for path in OURS}


def test_a_recipe_says_config_seeds_and_evidence(write):
    recipe = read_recipe(
        write(
            'data = "digits"\nseeds = [3, 1]\nimages = 500\nimbalance = 10\n[options]\nsteps = 7\n'
            "[simulate]\nucc = [2, 3]\nbag_size = 12\nwrong = 0.1\nseed = 5\n"
        )
    )
    assert (recipe.name, recipe.seeds, recipe.evidence_seed) == ("mine", (3, 1), 5)
    assert recipe.config == Config("digits", images=500, imbalance=10, options={"steps": 7})
    assert recipe.simulation == Simulation(n_bags=2000, ucc=(2, 3), bag_size=(12, 12), wrong=0.1, counts=True)


@pytest.mark.parametrize(
    ("simulate", "wanted"),
    [
        ("bags = 5", Simulation(n_bags=5)),
        ("labels_per_class = 2", Simulation(labels_per_class=2)),
        ("proportions = true", Simulation(n_bags=2000, counts=False, proportions=True)),
        ("presence = 10\ncounts = true", Simulation(n_bags=2000, counts=True, presence=10)),
    ],
)
def test_what_is_told_of_bags_is_as_the_verb_simulate_has_it(write, simulate, wanted):
    simulation = read_recipe(write(f'data = "digits"\n[simulate]\n{simulate}\n')).simulation
    for name in ("n_bags", "proportions", "presence", "labels_per_class"):
        assert getattr(simulation, name) == getattr(wanted, name)
    assert (simulation.counts and simulation.n_bags > 0) == (wanted.counts and wanted.n_bags > 0)


def test_each_seed_has_its_own_configuration(write):
    recipe = read_recipe(write('data = "digits"\ninit_from = "runs/a/seed-{seed}"\nseed = 4\n'))
    assert recipe.seeds == (4,)
    assert recipe.of_seed(7) == Config("digits", seed=7, init_from="runs/a/seed-7")


def test_options_of_the_form_for_embeddings_are_taken_as_on_the_command_line(write):
    recipe = read_recipe(write('data = "photos"\n[options]\ncomponents = 64\nvotes = 3'))
    assert recipe.config.options == {"components": 64, "votes": 3}
    with pytest.raises(InputError, match="`votes` must be a whole number, 1 or above, got 0"):
        read_recipe(write('data = "photos"\n[options]\ncomponents = 64\nvotes = 0'))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('dat = "digits"', r"mine\.toml: Unknown setting 'dat'\. Did you mean 'data'"),
        ("seeds = [0]", r"mine\.toml: `data` is missing"),
        ('data = "digits"\nmethod = "fushion"', r"mine\.toml: Unknown method 'fushion'\. Did you mean 'fusion'"),
        ('data = "digits"\n[options]\nstep = 3', r"mine\.toml: Unknown option of fusion 'step'\. Did you mean 'steps'"),
        ('data = "digits"\n[options]\nsteps = 0', r"mine\.toml: `steps` must be a whole number, 1 or above"),
        ('data = "digits"\n[options]\nwrong = 2', r"mine\.toml: `wrong` must be a number from 0 to 1, got 2"),
        ('data = "digits"\n[variants.a]\noptions.doubt = 2', r"variant 'a': `doubt` must be a number from 0 to 1"),
        ('data = "digits"\nallow_bad = 2', r"mine\.toml: `allow_bad` must be a number from 0 to 1, got 2"),
        (
            'data = "digits"\n[simulate]\nbag = 3',
            r"mine\.toml: Unknown setting of \[simulate\] 'bag'\. Did you mean 'bags'",
        ),
        ('data = "digits"\n[simulate]\nbags = "3"', r"`bags` must be a whole number, got '3'"),
        ('data = "digits"\n[simulate]\nucc = "1-4"', r"`ucc` must be a whole number or a range like \[1, 4\]"),
        ('data = "digits"\n[simulate]\nucc = [4, 1]', r"`ucc` must be a range"),
        ('data = "digits"\n[simulate]\ncomposition = "evn"', r"Did you mean 'even'"),
        ('data = "digits"\n[simulate]\nwrong = 0.1', r"`\[simulate\]` asks for nothing"),
        ('data = "digits"\nsimulate = 3', r"`simulate` must be a table, got 3"),
        ('data = "digits"\n[simulate]\nbags = 3\nseed = -1', r"`simulate.seed` must be a whole number, 0 or above"),
        ('data = "digits"\n[simulate]\nbags = 3\n[evidence]\nlabels = "l.csv"', "not both"),
        ('data = "digits"\n[evidence]\nlabel = "l.csv"', "Unknown kind of evidence 'label'. Did you mean 'labels'"),
        ('data = "digits"\nseeds = 3', r"`seeds` must be a list of whole numbers"),
        ('data = "digits"\nseeds = []', r"`seeds` must be a list of whole numbers"),
        ('data = "digits"\nseeds = [0, 0]', r"`seeds` must be different numbers"),
        ('data = "digits"\nseeds = [true]', r"`seeds` must be a whole number, 0 or above, got True"),
        ('data = "digits"\nseeds = [0]\nseed = 1', "Give `seeds` or `seed`, not both"),
        ('data = "digits"\nthreads = 1.5', r"`threads` must be a whole number"),
        ('data = "digits"\nmax_seconds = 0', r"`max_seconds` must be a number above 0, got 0"),
        ('data = "digits"\n[variant.a]', r"mine\.toml: Unknown setting 'variant'\. Did you mean 'variants'"),
        ('data = "digits"\n[variants]', r"mine\.toml: `\[variants\]` holds none"),
        ('data = "digits"\nvariants = 3', r"`variants` must be a table, got 3"),
        ('data = "digits"\n[variants]\na = 3', r"mine\.toml: variant 'a': it must be a table of settings, got 3"),
        ('data = "digits"\n[variants.a.variants.b]', r"variant 'a': Unknown setting 'variants'"),
        ('[variants.a]\ndata = "digits"\n[variants.b]', r"mine\.toml: variant 'b': `data` is missing"),
        ('data = "digits"\n[variants.a]\n[variants.b]\noptions.stepps = 3', r"variant 'b': Unknown option of fusion"),
        ('data = "digits"\n[simulate]\nbags = 3\n[variants.a]\nsimulate.bags = "4"', r"variant 'a': `bags` must be"),
        (
            'data = "digits"\n[simulate]\nbags = 3\n[variants.a]\nevidence.labels = "l.csv"',
            r"variant 'a': Give the files of `\[evidence\]` or",
        ),
        ("data = digits", r"mine\.toml' is not TOML"),
    ],
)
def test_what_is_wrong_is_said_with_the_file(write, text, message):
    with pytest.raises(InputError, match=message):
        read_recipe(write(text))


def test_variants_lie_over_what_stands_above_them(write):
    variants = read_recipe(
        write(
            'data = "digits"\nseeds = [3, 1]\nmethod = "ucc"\n[options]\nsteps = 7\nucc = "1-4"\n'
            '[simulate]\nucc = [1, 3]\nbags = 9\n[variants."as it is"]\n'
            '[variants.other]\nseed = 5\nimages = 50\noptions.ucc = "2-4"\nsimulate.bags = 8\n'
        )
    )
    assert (variants.name, list(variants.recipes)) == ("mine", ["as it is", "other"])
    first, second = variants.recipes.values()
    assert first.config == Config("digits", method="ucc", options={"steps": 7, "ucc": "1-4"})
    assert second.config == Config("digits", method="ucc", images=50, seed=5, options={"steps": 7, "ucc": "2-4"})
    assert (first.seeds, second.seeds) == ((3, 1), (5,))
    assert (first.simulation.n_bags, second.simulation.n_bags) == (9, 8)
    assert second.simulation.ucc == (1, 3)


def test_a_variant_is_a_recipe_that_can_be_read_again(write):
    text = 'data = "digits"\nseeds = [3, 1]\n[simulate]\nucc = [1, 3]\n[variants."a\\nb"]\nseed = 5\n'
    [variant] = read_recipe(write(text)).recipes.values()
    again = read_recipe(write(variant.text))
    assert (again.config, again.seeds, again.simulation) == (variant.config, (5,), variant.simulation)


def test_tables_below_are_left_as_they_are():
    below = {"options": {"steps": 1}, "seed": 2}
    assert merged(below, {"options": {"steps": 3}, "seed": {"a": 4}}) == {"options": {"steps": 3}, "seed": {"a": 4}}
    assert below == {"options": {"steps": 1}, "seed": 2}


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(InputError, match=r"There is no recipe 'mnist_ucc_evn'.* Did you mean 'mnist_ucc_even'\?"):
        read_recipe("mnist_ucc_evn")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="There is no recipe"):
        read_recipe(tmp_path / "none.toml")
    with pytest.raises(InputError, match="is a folder"):
        read_recipe(tmp_path)


def test_own_recipes_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = {read_recipe(name).text for name in ("mnist_none", "mnist_none.toml", "recipes/mnist_none.toml")}
    assert texts == {(ROOT / "recipes" / "mnist_none.toml").read_text(encoding="utf-8")}


def test_a_file_of_ones_own_goes_before_a_recipe_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist_none.toml").write_text('data = "digits"')
    assert read_recipe("mnist_none.toml").config.data == "digits"
    assert read_recipe("mnist_none").config.data == "mnist"
    with pytest.raises(InputError, match="There is no recipe"):
        read_recipe("elsewhere/mnist_none.toml")
