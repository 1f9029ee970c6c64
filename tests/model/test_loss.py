"""Packed rows give the loss and gradients of unpacked examples, and examples stay apart."""

import pytest
import torch

import amazon_desc.model.loss
from amazon_desc.model.attention import Layout
from amazon_desc.model.loss import target_loss, target_scores
from tests.model.conftest import EXAMPLES, batch_of, gradients


def test_packed_loss_and_gradients_equal_those_of_the_examples_alone(build) -> None:
    model = build()
    packed = batch_of(EXAMPLES, row_tokens=64)
    assert packed.input_ids.shape[0] < len(EXAMPLES)
    loss, num_targets = target_loss(model, packed)
    loss.backward()
    packed_gradients = gradients(model)
    alone = [target_loss(model, batch_of([example], row_tokens=40)) for example in EXAMPLES]
    torch.stack([loss for loss, _ in alone]).sum().backward()
    assert num_targets == sum(n for _, n in alone) == sum(len(i) - p for i, p in EXAMPLES)
    torch.testing.assert_close(loss, sum(loss for loss, _ in alone), rtol=1e-5, atol=0)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(packed_gradients[name], gradient, rtol=1e-3, atol=1e-5)


def test_the_loss_is_what_transformers_computes_for_an_example(build) -> None:
    model = build()
    ids, num_prompt_tokens = EXAMPLES[0]
    labels = torch.tensor([[-100] * num_prompt_tokens + ids[num_prompt_tokens:]])
    expected = model(input_ids=torch.tensor([ids]), labels=labels, use_cache=False).loss
    loss, num_targets = target_loss(model, batch_of([EXAMPLES[0]], row_tokens=40))
    torch.testing.assert_close(loss / num_targets, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("most_logits", [None, 512])
def test_scores_of_targets_are_those_of_the_examples_alone(
    build, most_logits: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a few positions at a time: one of 512 logits."""
    if most_logits is not None:
        monkeypatch.setattr(amazon_desc.model.loss, "SCORED_LOGITS", most_logits)
    model = build().eval()
    packed = batch_of(EXAMPLES, row_tokens=64)
    losses, is_right = target_scores(model, packed)
    assert losses.shape == is_right.shape == packed.before_targets.shape
    assert not losses.requires_grad
    places = packed.before_targets
    logits = model.get_base_model().lm_head(decode(model, packed).flatten(0, 1)[places])
    assert (
        is_right.tolist() == (logits.argmax(-1) == packed.input_ids.flatten()[places + 1]).tolist()
    )
    found = packed.sums_of_examples(losses)
    alone = [float(target_loss(model, batch_of([of], row_tokens=40))[0]) for of in EXAMPLES]
    assert sorted(found.tolist()) == pytest.approx(sorted(alone), rel=1e-5)
    assert float(found.sum()) == pytest.approx(float(target_loss(model, packed)[0]), rel=1e-5)


def test_changing_one_example_changes_nothing_in_its_row_mates(build) -> None:
    model = build().eval()
    other = [([1, *range(300, 320), 2], 5), *EXAMPLES[1:]]
    rows, changed = batch_of(EXAMPLES, row_tokens=128), batch_of(other, row_tokens=128)
    hidden, hidden_changed = (decode(model, batch) for batch in (rows, changed))
    is_same = rows.input_ids == changed.input_ids
    is_other = is_same & ~in_changed_example(rows, changed)
    assert is_other.sum() > 50
    torch.testing.assert_close(hidden[is_other], hidden_changed[is_other], rtol=0, atol=1e-6)
    assert not torch.allclose(hidden[~is_same], hidden_changed[~is_same])


def test_the_places_in_front_of_targets_give_what_a_mask_of_targets_gives(build) -> None:
    """To the last bit, loss and gradients; and the number of targets is a plain one."""
    model, batch = build(), batch_of(EXAMPLES, row_tokens=64)
    assert len(batch.input_ids) > 1
    loss, num_targets = target_loss(model, batch)
    loss.backward()
    found = gradients(model)
    is_before = batch.is_target[:, 1:]
    logits = model.get_base_model().lm_head(decode(model, batch)[:, :-1][is_before])
    targets = batch.input_ids[:, 1:][is_before]
    masked_loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    masked_loss.backward()
    assert torch.equal(loss, masked_loss)
    assert type(num_targets) is int
    assert num_targets == int(is_before.sum())
    for name, gradient in gradients(model).items():
        assert torch.equal(found[name], gradient)


def test_without_gradients_the_head_sees_a_part_of_the_targets_at_a_time(
    build, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = build(), batch_of(EXAMPLES, row_tokens=64)
    loss, num_targets = target_loss(model, batch)
    assert num_targets > 20
    sizes = []
    head = model.get_base_model().get_output_embeddings()
    head.register_forward_hook(lambda _, inputs, output: sizes.append(len(output)))
    monkeypatch.setattr(amazon_desc.model.loss, "SCORED_LOGITS", 7 * len(head.weight))
    with torch.no_grad():
        in_parts, same_number = target_loss(model, batch)
    assert same_number == num_targets == sum(sizes)
    assert max(sizes) == 7
    torch.testing.assert_close(in_parts, loss.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_attention_by_example_equals_attention_under_a_mask(build, quantization) -> None:
    model = build(quantization)
    batch = batch_of(EXAMPLES, row_tokens=64)
    loss, _ = target_loss(model, batch)
    loss.backward()
    by_example = gradients(model)
    base = model.get_base_model()
    hidden = base.get_decoder()(
        input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    before = batch.is_target[:, 1:]
    logits = base.lm_head(hidden[:, :-1][before])
    targets = batch.input_ids[:, 1:][before]
    masked_loss = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    masked_loss.backward()
    torch.testing.assert_close(loss, masked_loss, rtol=1e-5, atol=0)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(by_example[name], gradient, rtol=1e-3, atol=1e-5)


def decode(model, batch) -> torch.Tensor:
    layout = Layout(batch.example_tokens, batch.token_places)
    decoder = model.get_base_model().get_decoder()
    return decoder(
        input_ids=batch.input_ids,
        position_ids=batch.position_ids,
        use_cache=False,
        packed=layout,
    ).last_hidden_state


def in_changed_example(rows, changed) -> torch.Tensor:
    """Marks the whole example that differs: its end token is the same, but belongs to it."""
    example = (rows.position_ids == 0).cumsum(1)
    differing = set(example[rows.input_ids != changed.input_ids].tolist())
    assert len(differing) == 1
    return example == differing.pop()


def test_gradients_too_are_those_of_a_head_that_sees_a_part_of_the_targets_at_a_time(
    build, monkeypatch
) -> None:
    """The backward pass makes the logits of a part again: those of one part are there at a time."""
    model, batch = build(), batch_of(EXAMPLES, row_tokens=64)
    loss, num_targets = target_loss(model, batch)
    loss.backward()
    whole, head, sizes = gradients(model), model.get_base_model().lm_head, []
    head.register_forward_hook(lambda _, inputs, output: sizes.append(len(inputs[0])))
    monkeypatch.setattr(amazon_desc.model.loss, "LOGITS", 7 * len(head.weight))
    in_parts, same_number = target_loss(model, batch)
    assert (same_number, sum(sizes), max(sizes)) == (num_targets, num_targets, 7)
    in_parts.backward()
    assert sum(sizes) == 2 * num_targets
    torch.testing.assert_close(in_parts, loss, rtol=1e-6, atol=0)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-4, atol=1e-6)
