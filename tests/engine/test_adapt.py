"""The twin is the engine with gradients; distilling and fine-tuning change what they say, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from engine.adapt import Recipe, distil_swift_kv, fine_tune, measure
from engine.adapt_data import Texts, read_jsonl, texts_of
from engine.adapt_folder import add_swift, read_twin, tokenizer_of, write_folder
from engine.adapt_optim import Optimisers, check_finite, orthogonal
from engine.llm import LLM
from sim.errors import InputError, PlanError
from sim.plans.plan import plan_of
from sim.plans.spec import strategy_named
from sim.plans.strategies import swift_kv
from tests.engine.tinies import LAYERS, folder_of, greedy, hf_of, llm_of, prompts_of
from tests.gen import plans

SHAPE = llm_of("llama-gqa").config.shape
FAST = Recipe(steps=30, adam_lr=5e-3, dtype=torch.float32)


def texts(rows: int = 6, seed: int = 0) -> Texts:
    """Random prompts with random answers: nothing to know, something to memorise."""
    both = prompts_of(*[14] * rows, seed=seed)
    return texts_of([(p[: 4 + i % 3], p[4 + i % 3 :]) for i, p in enumerate(both)])


def forced_logprobs(twin, plan, prompt: list[int], answer: list[int]) -> torch.Tensor:
    one = texts_of([(prompt, answer)])
    streams = twin(one.tokens, twin.schedule(plan, one.prompt, one.tokens.shape[1]))
    return twin.logits(one.predicting(streams)).log_softmax(-1)


@pytest.mark.parametrize("variant", ["llama-gqa", "llama-tied-llama3", "opt", "qwen2", "mistral"])
def test_dense_twin_is_transformers(variant):
    twin, tokens = read_twin(folder_of(variant)), torch.tensor(prompts_of(20, 20))
    schedule = twin.schedule(plan_of(LAYERS, name="dense"), torch.tensor([3, 9]), 20)
    with torch.no_grad():
        expected = hf_of(variant)(tokens).logits
        assert (twin.logits(twin(tokens, schedule)) - expected).abs().max() <= 1e-5 * expected.abs().max()


def assert_twin_agrees(variant: str, plan, prompt: list[int], outputs: int) -> None:
    engine = llm_of(variant, plan, dtype="float64", max_num_batched_tokens=8)
    said = engine.generate([prompt], greedy(outputs, logprobs=0))[0]
    with torch.no_grad():
        twin = read_twin(folder_of(variant), dtype=torch.float64)
        logprobs = forced_logprobs(twin, engine.plan, prompt, said.token_ids)
    assert logprobs.argmax(-1).tolist() == said.token_ids
    for row, token, told in zip(logprobs, said.token_ids, said.logprobs, strict=True):
        assert abs(float(row[token]) - told[token]) < 1e-5


@settings(max_examples=25)
@given(st.data())
def test_twin_scores_what_the_engine_said_under_any_plan(data):
    plan = data.draw(plans(SHAPE))
    prompt = prompts_of(data.draw(st.integers(1, 9)), seed=data.draw(st.integers(0, 3)))[0]
    assert_twin_agrees("llama-gqa", plan, prompt, 6)


@pytest.mark.parametrize("variant", ["llama-gqa", "opt"])
@pytest.mark.parametrize(
    "spec",
    [
        "ffn_skip:run_length=2,threshold=0.6,cold_layers=1,warmup_tokens=1,cadence=3",
        "swift_kv:keep=2,group=2+skip_decode:speedup=2,schedule_tokens=4",
        "early_exit:at=3,kv_fill=1",
    ],
)
def test_twin_of_each_family_follows_gates_groups_and_exits(variant, spec):
    assert_twin_agrees(variant, spec, prompts_of(7)[0], 12)


def test_rows_of_a_batch_do_not_meet():
    plan = strategy_named("swift_kv:keep=2+skip_decode:speedup=2,schedule_tokens=4", SHAPE)
    twin, both = read_twin(folder_of("llama-gqa"), dtype=torch.float64), texts()
    with torch.no_grad():
        together = twin(both.tokens, twin.schedule(plan, both.prompt, both.tokens.shape[1]))
        for row in range(len(both.prompt)):
            tokens, prompt = both.tokens[row : row + 1], both.prompt[row : row + 1]
            alone = twin(tokens, twin.schedule(plan, prompt, tokens.shape[1]))
            assert torch.allclose(alone[0], together[row], atol=1e-12)


def test_compiles_without_a_break():
    twin, both = read_twin(folder_of("llama-gqa")), texts()
    schedule = twin.schedule(plan_of(LAYERS, name="dense"), both.prompt, both.tokens.shape[1])
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    assert torch.equal(compiled(both.tokens, schedule), twin(both.tokens, schedule))


@pytest.mark.parametrize("group", [1, 2, 4])
def test_untrained_swift_folder_is_the_raw_plan(group, tmp_path):
    """Group means and copies at the start, so distillation begins exactly where the undistilled plan is."""
    twin = read_twin(folder_of("llama-gqa"))
    add_swift(twin, keep=2, group=group)
    folder = write_folder(twin, tmp_path / "swift", dtype=torch.float32, like=folder_of("llama-gqa"))
    prompts = prompts_of(9, 13, 5)
    raw = llm_of("llama-gqa", swift_kv(SHAPE, keep=2, group=group)).generate(prompts, greedy(5))
    swift = LLM(folder, device="cpu", dtype="float32")
    assert swift.plan.digest == swift_kv(SHAPE, keep=2, group=group).digest
    assert [c.token_ids for c in swift.generate(prompts, greedy(5))] == [c.token_ids for c in raw]


def test_distilling_trains_only_what_swiftkv_adds(tmp_path):
    held = [texts()]
    done = distil_swift_kv(
        folder_of("llama-gqa"), tmp_path / "s", keep=2, group=2, batches=lambda step: held, held=held, recipe=FAST
    )
    assert done.after["kl"] < 0.5 * done.before["kl"]
    before, after = (load_file(f / "model.safetensors") for f in (folder_of("llama-gqa"), tmp_path / "s"))
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    added = set(after) - set(before)
    assert done.trained == sum(after[name].numel() for name in added)
    assert added == {"model.norm_swiftkv.weight"} | {
        f"model.layers.{layer}.self_attn.{which}_proj_swiftkv.weight"
        for layer in range(2, LAYERS)
        for which in ("qkv" if (layer - 2) % 2 == 0 else "q")
    }
    teacher = LLM(tmp_path / "s", plan="dense", device="cpu", dtype="float32")
    expected = llm_of("llama-gqa").generate(prompts_of(8), greedy(4))[0].token_ids
    assert teacher.generate(prompts_of(8), greedy(4))[0].token_ids == expected


def test_distilled_folder_says_the_same_in_the_engine(tmp_path):
    common = {"batches": lambda step: [texts()], "held": [texts()], "recipe": FAST}
    distil_swift_kv(folder_of("llama-gqa"), tmp_path, keep=3, group=1, **common)
    prompt, llm = prompts_of(7)[0], LLM(tmp_path, device="cpu", dtype="float64")
    said = llm.generate([prompt], greedy(6, logprobs=0))[0]
    with torch.no_grad():
        mine = forced_logprobs(read_twin(tmp_path, dtype=torch.float64), llm.plan, prompt, said.token_ids)
    assert all(abs(float(r[t]) - told[t]) < 1e-5 for r, t, told in zip(mine, said.token_ids, said.logprobs))


def test_hidden_error_pulls_every_position(tmp_path):
    """With the hidden-state loss the prompt's upper streams are trained too, which the logits of answers never see."""
    held = [texts()]
    gap = {}
    for weight in (0.0, 1.0):
        out = tmp_path / str(weight)
        common = {"batches": lambda step: held, "held": held, "recipe": replace(FAST, hidden_weight=weight)}
        distil_swift_kv(folder_of("llama-gqa"), out, keep=2, group=1, **common)
        twin, plan = read_twin(out), swift_kv(SHAPE, keep=2)
        streams = {}
        for name, p in (("dense", plan_of(LAYERS, name="dense")), ("swift", replace(plan, prompt=plan.sampled))):
            with torch.no_grad():
                streams[name] = twin(held[0].tokens, twin.schedule(p, held[0].prompt, held[0].tokens.shape[1]))
        gap[weight] = float((streams["dense"] - streams["swift"])[:, :4].square().mean())
    assert gap[1.0] < 0.7 * gap[0.0]


@pytest.mark.parametrize("variant", ["llama-gqa", "opt"])
def test_fine_tuning_learns_under_the_plan(variant, tmp_path):
    plan = strategy_named("skip_decode:speedup=2,schedule_tokens=6", SHAPE)
    held = [texts()]
    done = fine_tune(
        folder_of(variant), tmp_path, plan=plan, batches=lambda step: held, held=held, recipe=replace(FAST, lr=0.005)
    )
    assert done.after["loss"] < 0.5 * done.before["loss"]
    assert done.trained == done.parameters
    again = measure(read_twin(tmp_path), held, plan)
    assert again["loss"] == pytest.approx(done.after["loss"], rel=1e-4)
    assert tokenizer_of(tmp_path)("fox")["input_ids"]


def test_bad_input_is_refused_and_nothing_is_written(tmp_path):
    held, out = [texts()], tmp_path / "out"
    common = {"batches": lambda step: held, "held": held, "recipe": FAST}
    with pytest.raises(InputError, match="Llama family"):
        distil_swift_kv(folder_of("opt"), out, keep=2, group=1, **common)
    with pytest.raises(PlanError, match="must divide"):
        distil_swift_kv(folder_of("llama-gqa"), out, keep=3, group=2, **common)
    with pytest.raises(PlanError, match="is for 4 layers, the model has 6"):
        fine_tune(folder_of("llama-gqa"), out, plan=plan_of(4, name="dense"), **common)
    with pytest.raises(InputError, match="empty"):
        fine_tune(folder_of("llama-gqa"), out, plan=plan_of(6, name="x"), **(common | {"held": []}))
    wild = Recipe(steps=40, adam_lr=1e30)
    with pytest.raises(InputError, match=r"diverged at step .*nothing was written"):
        fine_tune(folder_of("llama-gqa"), out, plan=plan_of(6, name="x"), **(common | {"recipe": wild}))
    with pytest.raises(InputError, match="the set is empty"):
        texts_of([])
    assert not out.exists()


def test_text_files_are_read_or_refused_by_line(tmp_path):
    tokenizer, file = tokenizer_of(folder_of("llama-gqa")), tmp_path / "t.jsonl"
    long = "The quick brown fox jumps over the lazy dog. " * 4
    good = [{"text": long}, {"prompt": "The quick", "completion": " brown fox"}]
    file.write_text("\n".join(json.dumps(line) for line in good) + "\n\n", encoding="utf-8")
    examples = read_jsonl(file, tokenizer, max_tokens=20)
    assert [t for p, a in examples[:-1] for t in [*p, *a]] == tokenizer(long)["input_ids"][: 20 * (len(examples) - 1)]
    assert tokenizer.decode(examples[-1][1]).startswith(" brown fox")
    assert examples[-1][1][-1] == tokenizer.eos_token_id
    broken = {"{": "line 3, column 2: not JSON", '{"x": 1}': 'line 3: needs "text"', "[]": "line 3: needs"}
    for bad, why in broken.items():
        file.write_text("\n\n" + bad + "\n", encoding="utf-8")
        with pytest.raises(InputError, match=why):
            read_jsonl(file, tokenizer, max_tokens=20)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(InputError, match="holds no text"):
        read_jsonl(file, tokenizer, max_tokens=20)
    (tmp_path / "config.json").write_text((folder_of("llama-gqa") / "config.json").read_text())
    with pytest.raises(InputError, match="has no tokenizer"):
        tokenizer_of(Path(tmp_path))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 100))
def test_orthogonal_updates_have_even_singular_values(rows, columns, seed):
    x = torch.randn(3, rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x += 3 * torch.eye(rows, columns, dtype=torch.float64)  # away from rank deficiency, where five steps do not reach
    singular = torch.linalg.svdvals(orthogonal(x))
    assert singular.max() < 1.3
    assert (singular[:, 0] > 0.6).all()


def test_optimiser_state_survives_a_round_trip():
    def fresh() -> tuple[torch.nn.Module, Optimisers]:
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 3))
        return net, Optimisers(net.named_parameters(), steps=100, lr=0.02, adam_lr=0.01)

    def step(net: torch.nn.Module, optimisers: Optimisers, number: int) -> None:
        net(torch.full((2, 4), float(number))).square().sum().backward()
        optimisers.step(number)

    (a, one), (b, other) = fresh(), fresh()
    for number in range(3):
        step(a, one, number)
    b.load_state_dict(a.state_dict())
    other.restore(one.state())
    step(a, one, 3)
    step(b, other, 3)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert 0 < one.share(0) < one.share(5) > one.share(99) > 0
    with pytest.raises(InputError, match="another model"):
        other.restore({})


def test_only_numbers_pass():
    check_finite(torch.tensor(1.0), step=0, kept="")
    for bad in (float("nan"), float("inf")):
        with pytest.raises(InputError, match=r"step 7: the loss is .*old kept.*--lr"):
            check_finite(torch.tensor(bad), step=7, kept="old kept")
