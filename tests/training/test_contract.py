"""A method that breaks its contract is answered by one sentence, which names the member and what was wanted."""

import dataclasses

import numpy as np
import pytest
import torch

from smidgen import methods
from smidgen.data.batches import Request
from smidgen.data.views import View
from smidgen.errors import ContractError
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Method, Stage
from smidgen.model import Model, Preprocessing
from smidgen.options import Options
from smidgen.training.contract import check_assignments

ROWS = torch.arange(6)
ONE = torch.ones((), requires_grad=True)


@pytest.mark.parametrize(
    ("member", "returned", "wanted"),
    [
        ("loss", {"agree": ONE}, "the one to minimise as `total`, got the names ['agree']"),
        ("loss", ONE, "the one to minimise as `total`, got Tensor of shape ()"),
        ("loss", None, "the one to minimise as `total`, got None"),
        ("loss", {"total": ONE.expand(3)}, "a tensor of one number as 'total', got Tensor of shape (3,)"),
        ("loss", {"total": ONE, "agree": 0.5}, "a tensor of one number as 'agree', got float"),
        ("loss", {"total": ONE.detach()}, "a `total` that depends on parameters that learn"),
        ("request", Request(ROWS), "a dictionary, part name → `Request`, got Request"),
        ("request", {}, "a dictionary, part name → `Request`, got {}"),
        ("request", {"weak": ROWS}, "a `Request` for part 'weak', got Tensor of shape (6,)"),
        ("request", {"weak": Request(ROWS + 40)}, "rows from 0 to 39 for part 'weak', got 40 to 45"),
        ("request", {"weak": Request(ROWS - 1)}, "rows from 0 to 39 for part 'weak', got -1 to 4"),
        ("begin", torch.nn.Linear(2, 2), "such as `layer.parameters()`, or None, got Linear"),
        ("begin", torch.nn.Parameter(torch.ones(3)), "or None, got Parameter of shape (3,)"),
        ("begin", torch.ones(3), "or None, got Tensor of shape (3,)"),
        ("begin", [torch.ones(3)], "or None, got list"),
        ("stages", None, "a list of `Stage`s, [] for none, got None"),
        ("stages", [Stage("one", 3), Stage("one", 5)], "stages of different names"),
        ("optimisers", torch.optim.SGD([ONE]), "a list of one optimiser or more, got SGD"),
        ("optimisers", [], "a list of one optimiser or more, got []"),
    ],
)
def test_a_member_that_returns_something_else_is_named(member, returned, wanted, make_trainer, toy):
    method = toy()
    setattr(method, member, lambda *where, **more: returned)
    with pytest.raises(ContractError) as caught:
        make_trainer(method=method).train()
    assert str(caught.value).startswith(f"`{member}` of method 'toy' must return ")
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("field", "value", "got"),
    [
        ("indices", ROWS.float(), "got torch.float32 of shape (6,) on cpu"),
        ("indices", ROWS.int(), "got torch.int32 of shape (6,) on cpu"),
        ("indices", ROWS > 2, "got torch.bool of shape (6,) on cpu"),
        ("indices", ROWS[:, None], "got torch.int64 of shape (6, 1) on cpu"),
        ("indices", ROWS.to("meta"), "got torch.int64 of shape (6,) on meta"),
        ("indices", ROWS.numpy(), "got ndarray"),
        ("indices", None, "got NoneType"),
        ("indices", ROWS[:0], "one image at least"),
        ("items", ROWS.float(), "got torch.float32"),
        ("offsets", torch.tensor([0, 2, 7]), "from 0 to the number of its indices (6), got [0, 2, 7]"),
        ("offsets", torch.tensor([1, 6]), "got [1, 6]"),
        ("offsets", torch.tensor([0, 4, 2, 6]), "got [0, 4, 2, 6]"),
        ("view", [View(), View()], "a View, a tuple of them, or None"),
    ],
)
def test_a_request_says_what_is_wrong_with_it(field, value, got):
    with pytest.raises(ContractError) as caught:
        Request(**{"indices": ROWS, field: value})
    assert f"The `{field}` of a Request" in str(caught.value)
    assert got in str(caught.value)


@pytest.mark.parametrize("steps", [-1, 2.5, "3"])
def test_a_stage_has_a_whole_number_of_steps(steps):
    with pytest.raises(ContractError, match="Stage 'train' must have a whole number of steps"):
        Stage("train", steps)


@pytest.mark.parametrize("row", [[1, 2, -2], [0.5, 0.2, 0.2], [np.nan] * 3])
def test_assignments_that_are_no_shares_are_refused(row, problem, toy):
    method = toy()
    method.problem = problem
    with pytest.raises(ContractError, match="`assign` of method 'toy' must return rows of numbers from 0 that sum to"):
        check_assignments(method, np.array([[1, 0, 0], row]))
    assert len(check_assignments(method, np.eye(3))) == 3


@pytest.mark.parametrize(
    ("member", "shape", "wanted"),
    [
        ("assign", (), "(batch, 3), got (batch)"),
        ("assign", (2,), "(batch, 3), got (batch, 2)"),
        ("encode", (1, 4, 4), "(batch, features), got (batch, 1, 4, 4)"),
    ],
)
def test_outputs_of_another_shape_are_refused(member, shape, wanted, images, problem, toy):
    method = toy().eval()
    method.problem = problem
    setattr(method, member, lambda batch: torch.zeros(len(batch), *shape))
    with pytest.raises(ContractError) as caught:
        Model(method, "toy", Preprocessing(4, 1), tuple("abc")).assign_and_encode(images)
    assert str(caught.value) == f"`{member}` of method 'toy' must return a tensor of shape {wanted}."


def test_a_class_has_the_name_that_it_is_registered_under(monkeypatch, problem, toy):
    method = toy()
    method.config, method.problem = None, problem
    monkeypatch.setattr(methods, "_member", lambda name, index: lambda config, problem: method)
    assert make_method("toy", None, problem) is method
    with pytest.raises(ContractError, match="The class of method 'other' must have this as its `name`, got 'toy'"):
        make_method("other", None, problem)


def test_assignments_are_defined_one_way_or_the_other(monkeypatch, problem, toy):
    class Neither(toy):
        assign = Method.assign

    class Both(Neither):
        def assign_and_encode(self, images):
            embeddings = self.encode(images)
            return self.teacher(images).softmax(1), embeddings

    def made(kind):
        method = kind()
        method.config, method.problem = None, problem
        monkeypatch.setattr(methods, "_member", lambda name, index: lambda config, problem: method)
        return make_method("toy", None, problem)

    with pytest.raises(ContractError, match="The class of method 'toy' must define `assign` or `assign_and_encode`"):
        made(Neither)
    images, both = torch.rand(5, 1, 4, 4), made(Both).eval()
    assert both.assign(images).equal(both.teacher(images).softmax(1))


class Undecorated(Options):
    steps: int = 3


@dataclasses.dataclass(frozen=True)
class Plain:
    steps: int = 3


@pytest.mark.parametrize("config", [Undecorated, Plain])
def test_a_class_or_a_configuration_that_is_none_is_named(config, monkeypatch, problem, toy):
    monkeypatch.setattr(methods, "_member", lambda name, index: (lambda config, problem: toy(), config)[index])
    with pytest.raises(ContractError, match="The class of method 'toy' must set `config`"):
        make_method("toy", None, problem)
    with pytest.raises(ContractError, match=f"'toy', {config.__name__}, must be a subclass of `Options` under `@data"):
        make_config("toy")
