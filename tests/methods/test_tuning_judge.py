"""Whether fine-tuning made things better: by what is held out, on features that no evidence has shaped."""

import pytest
import torch
from torch.nn import functional as F

from smidgen.evidence.held_out import images_of
from smidgen.evidence.resolved import Resolved
from smidgen.methods import tuning_judge
from smidgen.methods.tuning_judge import Judge

N, NAMES = 200, ("a", "b")
TRUTH = torch.arange(N) % 2
ONE_HOT = F.one_hot(TRUTH, 2).float()
NOISE = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
CLEAR, VAGUE = NOISE + 8 * F.pad(ONE_HOT, (0, 4)), NOISE + F.pad(ONE_HOT, (0, 4))


def bags(**known):
    members = torch.arange(N)
    return Resolved(N, members=members, offsets=torch.arange(0, N + 1, 4), bag_names=[*map(str, range(50))], **known)


def counts():
    return bags(count_bags=torch.arange(50), counts_min=torch.full((50,), 2), counts_max=torch.full((50,), 2))


def pairs():
    pairs = torch.arange(N).view(N // 2, 2).roll(1)
    return Resolved(N, pairs=pairs, same=TRUTH[pairs[:, 0]] == TRUTH[pairs[:, 1]])


EVIDENCE = {
    "labels": Resolved(N, labels=torch.where(torch.arange(N) < 50, TRUTH, -1), class_names=NAMES),
    "counts": counts(),
    "proportions": bags(proportion_bags=torch.arange(50), proportions=torch.full((50, 2), 0.5), class_names=NAMES),
    "pairs": pairs(),
}


@pytest.mark.parametrize("kind", EVIDENCE)
def test_features_that_lead_from_some_statements_to_the_others_are_better(kind):
    judge = Judge(EVIDENCE[kind], 2, epsilon=0.1)
    assert judge.measure == f"log-likelihood of held-out {kind}"
    rows = judge.sample
    clear, vague = (judge.quality(x[rows], x[rows], ONE_HOT[rows]) for x in (CLEAR, VAGUE))
    assert clear > vague + 0.02
    assert judge.quality(VAGUE[rows], CLEAR[rows], ONE_HOT[rows]) == vague  # embeddings may know the answers


@pytest.mark.parametrize("kind", EVIDENCE)
def test_what_is_held_out_is_not_learned(kind):
    judge = Judge(EVIDENCE[kind], 2, epsilon=0.1)
    n = EVIDENCE[kind].sizes()[kind]
    assert judge.learned.sizes()[kind] == n - n // 5
    out = torch.ones(N, dtype=torch.bool).index_fill_(0, judge.rows, False)
    assert int(out.sum()) == {"labels": 10, "counts": 40, "proportions": 40, "pairs": 40}[kind]


def test_without_evidence_neighbours_and_even_clusters_are_better():
    judge = Judge(Resolved.nothing(N), 2, epsilon=0.1)
    assert judge.measure == "agreement of neighbours"
    right = judge.quality(CLEAR, CLEAR, ONE_HOT)
    assert right == pytest.approx(1.0)
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    assert judge.quality(CLEAR, CLEAR, ONE_HOT[shuffled]) < 0.7
    assert judge.quality(CLEAR, CLEAR, torch.tensor([[0.99, 0.01]]).expand(N, 2)) < 0.1


@pytest.mark.parametrize("kind", EVIDENCE)
def test_a_part_of_many_images_is_enough_but_for_all_that_is_held_out(kind, monkeypatch):
    monkeypatch.setattr(tuning_judge, "MOST", 20)
    judge = Judge(EVIDENCE[kind], 2, epsilon=0.1)
    out = torch.ones(N, dtype=torch.bool).index_fill_(0, judge.rows, False).nonzero().flatten()
    assert torch.isin(out, judge.sample).all()
    assert len(judge.sample) <= 20 + len(out)
    rows = judge.sample
    clear, vague = (judge.quality(x[rows], x[rows], ONE_HOT[rows]) for x in (CLEAR, VAGUE))
    assert clear > vague


def dense_pairs():
    pairs = torch.randint(N, (1000, 2), generator=torch.Generator().manual_seed(0))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return Resolved(N, pairs=pairs, same=TRUTH[pairs[:, 0]] == TRUTH[pairs[:, 1]])


def overlapping_bags():
    members = torch.randint(N, (800,), generator=torch.Generator().manual_seed(0))
    held = F.one_hot(TRUTH[members.view(200, 4)], 2).amax(1).sum(1)
    return Resolved(
        N,
        members=members,
        offsets=torch.arange(0, 801, 4),
        bag_names=[*map(str, range(200))],
        count_bags=torch.arange(200),
        counts_min=held,
        counts_max=held,
    )


@pytest.mark.parametrize("evidence", [dense_pairs(), overlapping_bags()])
def test_answers_that_are_known_by_heart_do_not_count(evidence):
    judge = Judge(evidence, 2, epsilon=0.1)
    out = images_of(judge.terms.evidence)
    assert N // 8 <= int(out.sum()) <= N // 4
    assert not out[judge.rows].any()
    many = torch.randn(N, 384, generator=torch.Generator().manual_seed(2))  # more numbers than images
    clear = many + 8 * F.pad(ONE_HOT, (0, 382))
    wrong = ONE_HOT.clone()
    wrong[::20] = wrong[::20].flip(1)
    rows = judge.sample
    assert judge.quality(clear[rows], clear[rows], wrong[rows]) > judge.quality(many[rows], many[rows], ONE_HOT[rows])
