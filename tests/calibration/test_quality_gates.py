"""Gates from a model's own profile: the rule replayed is the rule executed; a batch saves what its rows agree on."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calibration.quality.forced import forced
from calibration.quality.joint import joint_rates
from calibration.quality.similarity import Watched, fit_gate, watch
from calibration.quality.suite import copied_keys, family_of, gate_plan, named, need_of, suite, without_ffn
from calibration.quality.tasks.item import Item
from engine.adapt_data import texts_of
from engine.adapt_folder import read_twin
from engine.adapt_model import Seen
from sim.errors import InputError, PlanError
from sim.plans.plan import FFN, plan_of
from sim.plans.spec import strategy_named
from tests.engine.tinies import LAYERS, folder_of, prompts_of

torch.set_num_threads(1)


def items(count: int = 12, answer: int = 10) -> list[Item]:
    rows = prompts_of(*[6 + answer] * count, seed=5)
    return [Item("random", tuple(r[:6]), tuple(r[6:])) for r in rows]


def planted(cosines: np.ndarray, *, places: int = 12) -> Watched:
    tokens = len(cosines)
    place = np.arange(tokens) % places
    none = np.zeros(cosines.shape, dtype=bool)
    return Watched(np.arange(tokens) // places, place, cosines, cosines, none)


@given(st.integers(0, 1000), st.sampled_from([0.1, 0.2, 0.3]), st.integers(0, 2))
def test_a_fitted_gate_reaches_its_share_and_no_more_than_it_must(seed, share, cold):
    cosines = np.random.default_rng(seed).uniform(0.5, 1, (600, 10))
    fit = fit_gate(planted(cosines), share, cold_layers=cold)
    assert share <= fit.share < share + 0.1
    assert fit.skip.mean() == pytest.approx(fit.share)
    assert not fit.skip[: max(1, cold)].any()
    assert not fit.skip[10 - cold :].any()


def test_a_share_without_room_is_refused():
    with pytest.raises(PlanError, match=r"out of reach: 4 cold layers at either end leave at most 0\.\d+"):
        fit_gate(planted(np.full((60, 10), 0.9)), 0.5, cold_layers=4)


def test_the_replay_is_what_the_model_does():
    """Exactly so for the first token that may skip; later ones see what skipped neighbours have changed."""
    twin, asked = read_twin(folder_of("llama-gqa"), dtype=torch.float64), items()
    seen = watch(twin, asked)
    assert len(seen.place) == 12 * 9, "the last token of an answer is not fed back"
    assert set(seen.place) == set(range(9))
    plan, fit = gate_plan(twin.shape, seen, 0.2), fit_gate(seen, 0.2)
    met = watch(twin, asked, plan)
    after = met.place >= fit.warmup_tokens
    first = met.place == fit.warmup_tokens  # nobody has skipped before it: the replay is exact
    starts = met.skipped[first].any(axis=1)
    tested = seen.ffn[first][:, : LAYERS - 2]
    assert (starts == (tested > fit.threshold).any(axis=1)).all()
    assert met.skipped[after].mean() == pytest.approx(fit.share, abs=0.05)
    assert not met.skipped[~after].any()
    with pytest.raises(InputError, match="nothing to watch"):
        watch(twin, [])


def test_independent_rows_save_what_independence_predicts():
    rng = np.random.default_rng(0)
    p = np.array([0.0, 0.9, 0.5, 0.99])
    skipped = rng.random((20_000, 4)) < p
    seen = Watched(np.arange(20_000), rng.integers(0, 8, 20_000), skipped * 1.0, skipped * 1.0, skipped)
    for row in joint_rates(seen, warmup_tokens=0, seed=0):
        assert row["measured"] == pytest.approx((p ** row["rows"]).mean(), abs=0.03)
        assert row["phases"] == pytest.approx(row["independent"], abs=0.03)


def test_rows_that_agree_save_at_any_batch():
    """Decisions by position alone: a batch of one age agrees always, a batch of all ages hardly ever."""
    place = np.arange(4000) % 8
    skipped = np.repeat((place % 2 == 0)[:, None], 3, axis=1)
    rates = joint_rates(Watched(place, place, skipped * 1.0, skipped * 1.0, skipped), warmup_tokens=0, seed=0)
    assert all(r["measured"] == pytest.approx(0.5, abs=0.08) for r in rates)
    assert rates[-1]["phases"] < 0.01
    assert rates[-1]["vote"] == pytest.approx(0.5, abs=0.08)
    assert rates[-1]["forced"] == 0


def test_the_suite_fits_its_model():
    twin = read_twin(folder_of("llama-gqa"))
    candidates = suite(twin.shape, watch(twin, items()))
    assert candidates[0].plan is not None
    assert candidates[0].plan.is_dense
    labels = [c.label for c in candidates]
    assert len(set(labels)) == len(labels)
    for c in candidates:
        assert (c.plan is None) == bool(c.why_not)
        assert c.plan is None or c.plan.layers == LAYERS
    needs = {c.family: c.need for c in candidates if c.plan}
    assert needs["skip_decode"] == needs["unified_skip"] == "tune"
    assert needs["swift_kv"] == "distil"
    assert needs["swift_kv+skip_decode"] == "distil+tune"
    assert needs["ffn_skip"] == needs["self_speculative"] == needs["control"] == "nothing"


def test_candidates_from_specs():
    shape = read_twin(folder_of("llama-gqa")).shape
    found = named(["swift_kv:keep=3", "dense", "swift_kv:keep=3+skip_decode:speedup=2"], shape)
    assert [c.family for c in found] == ["dense", "swift_kv", "swift_kv+skip_decode"]
    assert [c.need for c in found] == ["nothing", "distil", "distil+tune"]
    assert family_of(strategy_named("early_exit:at=2", shape)) == "early_exit"
    assert need_of(plan_of(6, name="dense")) == "nothing"


def test_plans_of_our_own_are_what_they_say():
    shape = read_twin(folder_of("llama-gqa")).shape
    copied = copied_keys(shape, at=2)
    assert (copied.decode[0] & FFN).all()
    assert not (copied.decode[1, 2:] & FFN).any()
    static = without_ffn(shape, [1, 4])
    assert [j for j in range(LAYERS) if not static.decode[0, j] & FFN] == [1, 4]
    assert static.caches.size == LAYERS


def test_a_batch_of_one_votes_as_its_row_would():
    twin, asked = read_twin(folder_of("llama-gqa"), dtype=torch.float64), items()
    plan = gate_plan(twin.shape, watch(twin, asked), 0.3)
    alone, voted = forced(twin, asked, plan), forced(twin, asked, plan, vote=1)
    assert all(np.allclose(a.logprob, b.logprob) for a, b in zip(alone, voted))


def test_a_vote_binds_all_rows_of_its_batch_and_age():
    """Tokens of one ballot leave the same FFNs out; which ones, at least half of them wanted. Padding has no voice."""
    twin, asked = read_twin(folder_of("llama-gqa"), dtype=torch.float64), [*items(7), *items(1, answer=4)]
    plan = gate_plan(twin.shape, watch(twin, asked), 0.3)
    texts = texts_of([(i.prompt, i.answer) for i in asked])
    schedule = twin.schedule(plan, texts.prompt, texts.tokens.shape[1], vote=4, live=texts.fed)
    seen: list[Seen] = []
    with torch.no_grad():
        twin(texts.tokens, schedule, seen.append)
    index = torch.arange(texts.tokens.shape[1])[None] - texts.prompt[:, None]
    skipped = torch.stack([s.skipped if s.skipped is not None else torch.zeros_like(texts.fed) for s in seen])
    assert skipped.any()
    assert not skipped[:, ~texts.fed].any()
    near = torch.stack([torch.cosine_similarity(s.before, s.after, dim=-1) > plan.gate.threshold for s in seen])
    for batch in (slice(0, 4), slice(4, 8)):
        for place in range(9):
            there = (index == place) & texts.fed
            there[[i for i in range(8) if i not in range(*batch.indices(8))]] = False
            rows = skipped[:, there]
            assert (rows == rows[:, :1]).all()
            first = rows[:, 0].int().argmax() if rows.any() else None
            if first is not None:
                assert 2 * near[first - 1, there].sum() >= there.sum()
