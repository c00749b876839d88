from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from telme.bundle import UnsureText
from telme.labels import MELD
from telme.models.fusion import ASF, FusionDimensions, shift_weight
from telme.training.company import Material, Paired, Pairing
from telme.training.config import FusionSettings, Schedule, TextNoise
from telme.training.encodings import Encodings
from telme.training.fusion import SPLITS, FusionTask, judge
from telme.training.loop import fit

TEXT, AUDIO, VISUAL, LABELS = 10, 6, 4, 7


def fusion(order: tuple[str, str] = ("audio", "visual")) -> ASF:
    torch.manual_seed(0)
    dimensions = FusionDimensions(TEXT, AUDIO, VISUAL, LABELS, heads=2, dropout=0.2, order=order)
    model = ASF(dimensions)
    for parameter in model.parameters():  # biases too: none of them must be forgotten
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def inputs(batch: int, beta: float = 0.1, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    vectors = [torch.randn(batch, size, generator=generator) for size in (TEXT, AUDIO, VISUAL)]
    return [*vectors, torch.ones(batch), torch.ones(batch), torch.full((batch,), beta)]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * weight + bias


def by_hand(model: ASF, text: np.ndarray, audio: np.ndarray, visual: np.ndarray, beta: float) -> np.ndarray:
    """The paper's formulas for one utterance, in double precision. Over one key, softmax is 1."""
    p = {name: value.detach().double().numpy() for name, value in model.named_parameters()}
    joined = [audio, visual] if model.dimensions.order == ("audio", "visual") else [visual, audio]
    x = np.concatenate(joined)
    d = len(x)
    value = p["attention.in_proj_weight"][2 * d :] @ x + p["attention.in_proj_bias"][2 * d :]
    u = p["attention.out_proj.weight"] @ value + p["attention.out_proj.bias"] + x
    n = layer_norm(u, p["joined_norm.weight"], p["joined_norm.bias"])
    g = np.maximum(p["W_hav.weight"] @ np.concatenate([n, text]) + p["W_hav.bias"], 0)
    H = g * (p["W_av.weight"] @ n + p["W_av.bias"])
    length = np.linalg.norm(H)
    lam = 1.0 if length == 0 else min(beta * np.linalg.norm(text) / (length + 1e-6), 1.0)
    Z = layer_norm(text + lam * H, p["norm.weight"], p["norm.bias"])
    return p["classifier.weight"] @ Z + p["classifier.bias"]


@pytest.mark.parametrize("order", [("audio", "visual"), ("visual", "audio")])
@pytest.mark.parametrize("beta", [0.1, 100.0])
def test_is_the_papers_formula(order: tuple[str, str], beta: float) -> None:
    model, given_inputs = fusion(order), inputs(5, beta)
    logits = model(*given_inputs).detach().numpy()
    for row in range(5):
        text, audio, visual = (vector[row].double().numpy() for vector in given_inputs[:3])
        np.testing.assert_allclose(logits[row], by_hand(model, text, audio, visual, beta), atol=1e-5)


def test_an_utterance_is_the_same_alone_and_in_any_batch() -> None:
    model, together = fusion(), inputs(6)
    together[3][2] = together[4][2] = together[4][5] = 0
    logits = model(*together)
    for row in range(6):
        torch.testing.assert_close(model(*(value[row : row + 1] for value in together))[0], logits[row])


def test_each_utterance_has_its_own_bound() -> None:
    model, together = fusion(), inputs(6)
    together[5] = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 100.0])
    logits = model(*together)
    assert not torch.allclose(logits, model(*together[:5], torch.full((6,), 0.1)))
    for row in range(6):
        torch.testing.assert_close(model(*(value[row : row + 1] for value in together))[0], logits[row])


@settings(max_examples=100, deadline=None)
@given(
    beta=st.floats(0.001, 10),
    scale=st.sampled_from([0.0, 1e-6, 1e-3, 1.0, 1e3]),
    size=st.sampled_from([0.0, 1e-6, 1.0, 1e3]),
    seed=st.integers(0, 10_000),
)
def test_the_shift_is_bounded(beta: float, scale: float, size: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    F_T, H = (torch.from_numpy(random.normal(size=(3, TEXT)) * factor) for factor in (size, scale))
    lam = shift_weight(F_T, H, torch.full((3,), beta, dtype=torch.float64))
    assert ((lam >= 0) & (lam <= 1)).all()
    assert ((lam * H).norm(dim=1) <= beta * F_T.norm(dim=1) * (1 + 1e-9)).all()
    within = H.norm(dim=1) + 1e-6 <= beta * F_T.norm(dim=1)
    assert (lam[within] == 1).all()


def text_alone(model: ASF, text: Tensor) -> Tensor:
    logits: Tensor = model.classifier(model.norm(text))
    return logits


def test_without_sound_and_picture_nothing_is_shifted() -> None:
    model, values = fusion(), inputs(4)
    values[1], values[2] = torch.full_like(values[1], torch.nan), torch.full_like(values[2], torch.inf)
    values[3], values[4] = torch.zeros(4), torch.zeros(4)
    torch.testing.assert_close(model(*values), text_alone(model, values[0]))


@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_modalitys_vector_does_not_matter(missing: int) -> None:
    model, values, others = fusion(), inputs(4), inputs(4)
    others[missing] = torch.randn_like(others[missing])
    values[missing + 2] = others[missing + 2] = torch.zeros(4)
    assert torch.equal(model(*values), model(*others))
    assert not torch.allclose(model(*values), text_alone(model, values[0]))


def test_a_small_bound_leaves_the_text() -> None:
    model, values = fusion(), inputs(4, beta=1e-9)
    torch.testing.assert_close(model(*values), text_alone(model, values[0]))


def test_without_text_nothing_is_shifted() -> None:
    model, values = fusion(), inputs(4)
    values[0] = torch.zeros_like(values[0])
    torch.testing.assert_close(model(*values), text_alone(model, values[0]))


def test_gradients_are_finite_whatever_is_missing() -> None:
    model, values = fusion(), inputs(4)
    values[3], values[4] = torch.tensor([1.0, 0, 1, 0]), torch.tensor([1.0, 1, 0, 0])
    values[0][0] = 0
    values[0].requires_grad_()
    model(*values).square().sum().backward()
    assert values[0].grad is not None
    assert values[0].grad.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def clusters(count: int, size: int, seed: int, spread: float) -> Encodings:
    """Vectors around one centre per emotion; the centres depend on the size alone."""
    random = np.random.default_rng(seed)
    truth = random.integers(0, LABELS, count)
    centres = np.random.default_rng(size).normal(size=(LABELS, size))
    vectors = centres[truth] + spread * random.normal(size=(count, size))
    return Encodings(torch.from_numpy(vectors.astype(np.float32)), truth)


def material(seed: int) -> Material:
    """Vague text, clear sound, clear faces."""
    return Material(
        clusters(600, TEXT, 3 * seed, spread=1.5),
        clusters(90, AUDIO, 3 * seed + 1, 0.3),
        clusters(110, VISUAL, 3 * seed + 2, 0.3),
    )


def test_pairs_share_the_label() -> None:
    at_hand = material(0)
    company = at_hand.pair(Pairing(), np.random.default_rng(0))
    np.testing.assert_array_equal(company.truth, at_hand.text.truth)
    assert company.audio_present.all()
    assert company.visual_present.all()
    for vectors, source in ((company.audio, at_hand.audio), (company.visual, at_hand.visual)):
        places = (vectors[:, None] == source.vectors[None]).all(dim=2).int().argmax(dim=1).numpy()
        np.testing.assert_array_equal(source.truth[places], at_hand.text.truth)
        assert len(np.unique(places)) > 50


def test_shares_of_missing_and_unmatched_are_as_asked() -> None:
    company = material(0).pair(Pairing(audio_missing=0.3, visual_missing=1.0), np.random.default_rng(0))
    assert 0.22 < 1 - company.audio_present.mean() < 0.38
    assert not company.visual_present.any()
    at_hand = material(0)
    company = at_hand.pair(Pairing(unmatched=1.0), np.random.default_rng(0))
    places = (company.audio[:, None] == at_hand.audio.vectors[None]).all(dim=2).int().argmax(dim=1).numpy()
    assert (at_hand.audio.truth[places] == at_hand.text.truth).mean() < 0.3


def test_plain_words_are_said_and_shown_with_the_emotion_that_is_the_truth() -> None:
    at_hand = material(0)
    pairing = Pairing(audio_missing=0.5, visual_missing=0.5, unmatched=0.0, plain=0.5)
    company = at_hand.pair(pairing, np.random.default_rng(0))
    truth = company.truth.numpy()
    neutral = at_hand.text.truth == MELD.index("neutral")
    np.testing.assert_array_equal(truth[~neutral], at_hand.text.truth[~neutral])
    changed = truth != at_hand.text.truth
    # Half of the neutral texts; three of four of these have company, and one emotion of seven is neutral itself.
    assert 0.2 < changed[neutral].mean() < 0.45
    assert set(truth[changed]) == set(range(LABELS)) - {MELD.index("neutral")}
    assert (company.audio_present + company.visual_present)[changed].all()
    for vectors, present, source in (
        (company.audio, company.audio_present, at_hand.audio),
        (company.visual, company.visual_present, at_hand.visual),
    ):
        there = present.numpy() > 0
        places = (vectors[:, None] == source.vectors[None]).all(dim=2).int().argmax(dim=1).numpy()
        np.testing.assert_array_equal(source.truth[places][there], truth[there])
    np.testing.assert_array_equal(at_hand.pair(Pairing(), np.random.default_rng(0)).truth, at_hand.text.truth)


def test_plain_words_teach_to_listen(tmp_path: Path) -> None:
    schedule = Schedule(epochs=20, batch=32, learning_rate=5e-3)

    def heard(plain: float) -> float:
        """How often words that are as neutral as they can be take the emotion of the voice."""
        settings = FusionSettings(beta=1.0, heads=2, dropout=0.1, plain_share=plain, schedule=schedule)
        torch.manual_seed(0)
        model = ASF(FusionDimensions(TEXT, AUDIO, VISUAL, LABELS, heads=2, dropout=0.1))
        clear = {name: replace(material(seed), text=clusters(600, TEXT, seed, 0.3)) for seed, name in enumerate(SPLITS)}
        fit(FusionTask(model, clear, settings, seed=0), schedule, tmp_path / str(plain), seed=0)
        test = clear["test"]
        number = len(test.audio)
        words = test.text.vectors[test.text.truth == MELD.index("neutral")][:1].expand(number, -1)
        with torch.inference_mode():
            present, unseen = torch.ones(number), torch.zeros(number)
            faces = torch.zeros(number, VISUAL)
            logits = model.eval()(words, test.audio.vectors, faces, present, unseen, torch.ones(number))
        return float((logits.argmax(1).numpy() == test.audio.truth).mean())

    assert heard(0.5) > 0.6
    assert heard(0.0) < 0.3


def test_an_emotion_that_no_face_shows_has_no_face() -> None:
    at_hand = material(0)
    shown = at_hand.visual.truth != MELD.index("joy")
    faces = Encodings(at_hand.visual.vectors[torch.from_numpy(shown)], at_hand.visual.truth[shown])
    company = Material(at_hand.text, at_hand.audio, faces).pair(Pairing(), np.random.default_rng(0))
    joyful = at_hand.text.truth == MELD.index("joy")
    np.testing.assert_array_equal(company.visual_present.numpy() == 0, joyful)


def test_utterances_of_one_corpus_keep_their_own_clips() -> None:
    ids = tuple("abcdefgh")
    truth = np.arange(8) % LABELS
    text = Encodings(torch.randn(8, TEXT), truth, ids)
    audio = Encodings(torch.randn(6, AUDIO), truth[:6], ids[:6])  # the clips of g and h could not be read
    visual = Encodings(torch.randn(7, VISUAL), truth[1:][::-1].copy(), ids[1:][::-1])  # nor the pictures of a
    whole = Paired(text, audio, visual).pair(Pairing(), np.random.default_rng(0))
    assert whole.audio_present.tolist() == [1] * 6 + [0] * 2
    assert whole.visual_present.tolist() == [0] + [1] * 7
    assert torch.equal(whole.text, text.vectors)
    assert torch.equal(whole.audio[:6], audio.vectors)
    assert torch.equal(whole.visual[1:], visual.vectors.flip(0))
    np.testing.assert_array_equal(whole.truth, truth)


def test_whole_utterances_lose_and_swap_clips_as_often_as_asked() -> None:
    ids = tuple(map(str, range(600)))
    text, audio, visual = (clusters(600, size, size, 0.5) for size in (TEXT, AUDIO, VISUAL))
    own = Paired(*(Encodings(part.vectors, part.truth, ids) for part in (text, audio, visual)))
    company = own.pair(Pairing(audio_missing=0.3, unmatched=0.2), np.random.default_rng(0))
    assert 0.22 < 1 - company.audio_present.mean() < 0.38
    assert company.visual_present.all()
    strangers = (company.visual != visual.vectors).any(dim=1).float().mean()
    assert 0.13 < strangers < 0.27


def test_the_bound_of_each_text_follows_its_confidence() -> None:
    torch.manual_seed(0)
    model = ASF(FusionDimensions(TEXT, AUDIO, VISUAL, LABELS, heads=2, dropout=0.1)).eval()
    at_hand = material(0)
    doubt = np.linspace(0, 1, len(at_hand.text), dtype=np.float32)
    doubted = replace(at_hand, text=replace(at_hand.text, confidence=doubt))
    schedule = Schedule(epochs=1, batch=32, learning_rate=5e-3)
    fixed = FusionSettings(beta=0.1, heads=2, schedule=schedule)
    ruled = FusionSettings(beta=0.1, unsure=UnsureText(beta=2.0), noise=TextNoise(), heads=2, schedule=schedule)

    def logits(company: Material, settings: FusionSettings) -> Tensor:
        task = FusionTask(model, {"dev": company, "train": company, "test": company}, settings, seed=0)
        return torch.from_numpy(task.results("dev", Pairing()).logits)

    plain = logits(at_hand, fixed)
    assert torch.equal(logits(doubted, fixed), plain)
    assert torch.equal(logits(at_hand, ruled), plain)
    company = at_hand.pair(Pairing(), np.random.default_rng(0))
    with torch.inference_mode():
        expected = model(*company[:5], torch.from_numpy(2.0 - 1.9 * doubt))
    torch.testing.assert_close(logits(doubted, ruled), expected)


def test_text_that_is_never_doubtful_needs_no_rule() -> None:
    schedule = Schedule(epochs=1, batch=32, learning_rate=5e-3)
    with pytest.raises(ValidationError, match="`unsure` needs `noise`"):
        FusionSettings(unsure=UnsureText(beta=2.0), schedule=schedule)


def test_training_learns_when_to_be_moved(tmp_path: Path) -> None:
    schedule = Schedule(epochs=6, batch=32, learning_rate=5e-3)
    settings = FusionSettings(beta=0.5, heads=2, dropout=0.1, schedule=schedule)
    torch.manual_seed(0)
    model = ASF(FusionDimensions(TEXT, AUDIO, VISUAL, LABELS, heads=2, dropout=0.1))
    task = FusionTask(model, {"train": material(1), "dev": material(2), "test": material(3)}, settings, seed=0)
    assert [len(batch.truth) for batch in task.train_batches(0)] == [32] * 18 + [24]
    fit(task, schedule, tmp_path, seed=0)
    temperature, scores = judge(task)
    f1 = {score.data.split(", ", 2)[2]: score.value for score in scores if score.metric == "weighted_f1"}
    alone, everything = f1["text only"], next(value for name, value in f1.items() if "audio and visual;" in name)
    assert alone > 0.25
    assert everything > alone + 0.1
    assert temperature > 0
