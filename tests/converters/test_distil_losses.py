"""Each loss is 0 for a student that answers as its teacher does, and grows where it should."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from converters.distil import losses
from converters.distil.student import RELATED, Observed, states_of

TORCH = torch.Generator().manual_seed(4)


def some(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=TORCH)


@pytest.fixture
def mask() -> torch.Tensor:
    """Three texts of 6, 4 and 2 tokens."""
    return (torch.arange(6)[None] < torch.tensor([6, 4, 2])[:, None]).long()


def test_equal_answers_cost_nothing(mask: torch.Tensor) -> None:
    logits, pooled, states, qkv = some(3, 5), some(3, 8), some(3, 6, 8), some(3, 6, 12)
    for found in (
        losses.soft_labels(logits, logits, 2.0),
        losses.embedding(pooled, 3 * pooled),
        losses.similarity(pooled, 2 * pooled, pooled, 2 * pooled),
        losses.hidden_states([states], [states], mask),
        losses.relations([qkv] * 3, [qkv] * 3, mask, 4),
    ):
        assert found.shape == (3,)
        assert found.abs().max() < 1e-5


def test_soft_labels_are_the_divergence_that_the_paper_has() -> None:
    student, teacher, t = some(4, 5), some(4, 5), 3.0
    p, q = (teacher / t).softmax(1), (student / t).softmax(1)
    wanted = t**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(losses.soft_labels(student, teacher, t), wanted)


def test_rows_without_a_label_cost_nothing() -> None:
    found = losses.labels(some(3, 5), torch.tensor([2, losses.NO_LABEL, 0]))
    assert found[1] == 0
    assert (found[[0, 2]] > 0).all()


def test_similarities_are_compared_across_widths() -> None:
    student, teacher = some(4, 8), some(4, 20)
    found = losses.similarity(student, teacher, student, teacher)
    cosine = torch.nn.functional.cosine_similarity
    told = cosine(student[:, None], student[None], dim=2)
    wanted = cosine(teacher[:, None], teacher[None], dim=2)
    torch.testing.assert_close(found, (told - wanted).square().mean(1))


def test_padding_changes_no_loss(mask: torch.Tensor) -> None:
    student, teacher = some(3, 6, 12), some(3, 6, 12)
    other = torch.where(mask[..., None].bool(), student, torch.tensor(9.0))
    before = losses.hidden_states([student], [teacher], mask)
    torch.testing.assert_close(losses.hidden_states([other], [teacher], mask), before)
    before = losses.relations([student] * 3, [teacher] * 3, mask, 3)
    torch.testing.assert_close(losses.relations([other] * 3, [teacher] * 3, mask, 3), before)


def test_relations_are_compared_across_widths_and_do_not_see_rotations(mask: torch.Tensor) -> None:
    narrow, wide = some(3, 6, 8), some(3, 6, 32)
    assert (losses.relations([narrow] * 3, [wide] * 3, mask, 4) > 0).all()
    rotation, _ = torch.linalg.qr(some(32, 32))
    found = losses.relations([wide @ rotation] * 3, [wide] * 3, mask, 1)
    assert found.abs().max() < 1e-4


@pytest.mark.parametrize(
    ("student", "teacher", "heads", "expected"),
    [(384, 384, 12, 12), (256, 384, 12, 8), (160, 384, 12, 8), (96, 384, 12, 12), (7, 384, 12, 1)],
)
def test_relation_heads_split_both_widths(
    student: int, teacher: int, heads: int, expected: int
) -> None:
    assert losses.relation_heads(student, teacher, heads) == expected


def test_layers_are_mapped_evenly_and_the_last_to_the_last() -> None:
    assert losses.layer_map(3, 6) == [0, 2, 4, 6]
    assert losses.layer_map(6, 6) == [*range(7)]
    assert losses.layer_map(4, 6)[-1] == 6


def test_a_network_is_seen_from_inside_as_the_library_tells_it(mask: torch.Tensor) -> None:
    torch.manual_seed(2)
    encoder = BertModel(
        BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                   intermediate_size=24, max_position_embeddings=8),
        add_pooling_layer=False,
    ).eval()  # fmt: skip
    ids = torch.randint(20, mask.shape, generator=TORCH)
    seen = Observed(encoder, hidden=True, relation=True)(ids, mask)
    told = encoder(ids, mask, output_hidden_states=True)
    for state, wanted in zip(states_of(seen), told.hidden_states, strict=True):
        torch.testing.assert_close(state, wanted)
    query = encoder.encoder.layer[-1].attention.self.query(told.hidden_states[1])
    torch.testing.assert_close(seen["query"], query)
    assert set(RELATED) <= set(seen)
    assert "hidden.0" not in Observed(encoder, hidden=False, relation=False)(ids, mask)
