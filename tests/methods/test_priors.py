"""The option `prior`: what it may be, for which methods, and how a learned one is released."""

import pytest
import torch

from smidgen.errors import InputError
from smidgen.methods import METHODS, make_config, option_types
from smidgen.methods.priors import RELEASED_TO, read_prior, read_shares, unfairness

WITH_PRIOR = [name for name in METHODS if "prior" in option_types(name)]


def test_all_methods_with_balanced_clusters_have_the_option():
    assert {"fusion-images", "fusion-embeddings", "sela", "mutual-information"} == set(WITH_PRIOR)
    assert "prior" in option_types("fusion")


@pytest.mark.parametrize("method", WITH_PRIOR)
@pytest.mark.parametrize("prior", ["uniform", "learned", "1,2,3", "0.5, 1e-3"])
def test_it_is_one_vocabulary(method, prior):
    assert make_config(method, {"prior": prior}).prior == prior


@pytest.mark.parametrize("method", WITH_PRIOR)
@pytest.mark.parametrize("prior", ["even", "", "1,", "1,0", "1,-2", "1,nan", "1,inf", "1;2"])
def test_another_prior_is_refused(method, prior):
    with pytest.raises(InputError, match="`prior` must be uniform, learned, or numbers above 0 separated by commas"):
        make_config(method, {"prior": prior})


def test_a_given_prior_is_enforced_and_a_learned_one_from_equal_shares_on():
    given, learned = (read_prior(prior, 2, of="clusters") for prior in ("1,3", "learned"))
    assert given.shares.tolist() == [0.25, 0.75]
    assert learned.shares.tolist() == [0.5, 0.5]
    assert [given.exponent(t) for t in (0, 0.5, 1)] == [1, 1, 1]
    exponents = [learned.exponent(t) for t in (0, 0.4, 0.6, 0.8, 1, 1.2)]
    assert exponents == sorted(exponents, reverse=True)
    assert (exponents[1], exponents[-2], exponents[-1]) == (1, pytest.approx(RELEASED_TO), pytest.approx(RELEASED_TO))
    assert read_prior("learned", 3, of="clusters").exponent(0.85, after=0.7) == pytest.approx(0.65)
    assert read_prior("uniform", 3, of="clusters").exponent(1.0, after=0.7) == 1


def test_it_must_have_a_number_for_each_cluster():
    with pytest.raises(InputError, match="a number for each of the 3 clusters, got 2"):
        read_prior("1,2", 3, of="clusters")


def test_unfairness_is_nothing_at_the_prior_only():
    prior = torch.tensor([0.7, 0.3])
    assert float(unfairness(prior, prior)) == pytest.approx(0, abs=1e-6)
    assert float(unfairness(prior.flip(0), prior)) == pytest.approx(0.4 * float((prior[0] / prior[1]).log()), abs=1e-6)


def test_shares_of_any_size_are_shares():
    assert read_shares("3e38,3e38").tolist() == [0.5, 0.5]
    with pytest.raises(InputError, match="`prior` must be uniform, learned, or numbers above 0 separated by commas"):
        read_shares("1e-300,1")
