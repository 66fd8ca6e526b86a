"""Heads: several side by side are several alone."""

import torch

from smidgen.nets.heads import LinearHeads


def test_each_head_is_a_linear_layer_of_its_own():
    heads = LinearHeads(4, 3, heads=2)
    x = torch.rand(5, 4)
    logits = heads(x)
    assert logits.shape == (5, 2, 3)
    for h in range(2):
        rows = slice(3 * h, 3 * h + 3)
        alone = torch.nn.functional.linear(x, heads.linear.weight[rows], heads.linear.bias[rows])
        torch.testing.assert_close(logits[:, h], alone)


def test_heads_do_not_touch_each_other():
    heads = LinearHeads(4, 3, heads=2)
    heads(torch.rand(5, 4))[:, 0].sum().backward()
    assert heads.linear.weight.grad[3:].abs().max() == 0
    assert heads.linear.weight.grad[:3].abs().min() > 0
