"""Questions: each has one right answer that can be worked out from its text, and belongs to one split for ever."""

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from calibration.quality.sampling import held_out, packed, training_step
from calibration.quality.sizes import CPU
from calibration.quality.tasks import EXACT, tasks_of
from calibration.quality.tasks.code import library, split_of_file
from calibration.quality.tasks.item import split_of
from calibration.quality.tasks.orders import obeyed
from calibration.quality.vocabulary import Vocabulary
from calibration.quality.world import LARGE, SMALL, World, read_world
from sim.errors import InputError

VOCABULARY = Vocabulary(SMALL)
TASKS = tasks_of(VOCABULARY)
SPLITS = ("train", "calibrate", "test")
seeds = st.integers(0, 2**32)


def words(text: str) -> list[str]:
    return re.findall(r"⟨[^⟩]*⟩|[\s\S]", text)


def drawn(task: str, seed: int, split: str = "test"):
    item = TASKS[task].draw(np.random.default_rng(seed), split)
    return item, words(VOCABULARY.text(item.prompt)), words(VOCABULARY.text(item.answer))


@given(seeds, st.sampled_from(SPLITS), st.sampled_from(EXACT))
def test_a_prompt_belongs_to_the_split_it_was_drawn_for(seed, split, task):
    item = drawn(task, seed, split)[0]
    assert split_of(item.prompt) == split
    assert item.answer[-1] == VOCABULARY.end
    assert max(*item.prompt, *item.answer) < len(VOCABULARY)


def test_held_out_prompts_never_occur_in_training():
    trained = {i.prompt for step in range(8) for i in training_step(TASKS, CPU.mix, seed=0, step=step) if not i.prose}
    for split in ("calibrate", "test"):
        items = held_out(TASKS, split, count=100, seed=0, only=EXACT)
        assert not trained & {i.prompt for i in items}
        assert len({i.prompt for i in items}) == len(items)
    one, other = (held_out(TASKS, split, count=100, seed=0, only=EXACT) for split in ("calibrate", "test"))
    assert not {i.prompt for i in one} & {i.prompt for i in other}


@given(seeds)
def test_sums_add_up(seed):
    _, prompt, answer = drawn("sum", seed)
    a, b = "".join(prompt[1:-1]).split("+")
    assert int(a[::-1]) + int(b[::-1]) == int("".join(answer[:-1])[::-1])


@given(seeds)
def test_recall_answers_with_what_followed_the_key(seed):
    _, prompt, answer = drawn("recall", seed)
    mark = prompt.index("⟨?⟩")
    told = {prompt[i]: prompt[i + 1 : i + 3] for i in range(1, mark, 3)}
    asked = prompt[mark + 1 : -1]
    assert answer[:-1] == [w for key in asked for w in (key, *told[key])]
    assert len(told) == (mark - 1) // 3, "keys are distinct"


@given(seeds)
def test_copy_and_resume_repeat_the_sequence(seed):
    _, prompt, answer = drawn("copy", seed)
    assert answer[:-1] == prompt[1:-1]
    _, prompt, answer = drawn("resume", seed)
    mark = prompt.index("⟨=⟩")
    listed = prompt[1:mark]
    assert prompt[mark + 1 :] + answer[:-1] == listed[listed.index(prompt[mark + 1]) :]


@given(seeds)
def test_tally_extracts_a_section_and_counts_it(seed):
    _, prompt, answer = drawn("tally", seed)
    mark = prompt.index("⟨?⟩")
    text = "".join(prompt[1:mark])
    section = re.search(re.escape(prompt[mark + 1]) + r"((⟨symbol \d+⟩)+)", text)
    found = words(section[1])
    assert answer[:-1] == [*found, "⟨total⟩", *str(len(found))]


@given(seeds)
def test_orders_are_obeyed_by_their_answer_and_by_nothing_simpler(seed):
    item, prompt, answer = drawn("order", seed)
    assert all(obeyed(item, "".join(answer)).values())
    word, times, case, separator = item.facet.split(" ")
    assert prompt == ["⟨say⟩", *word, "⟨times⟩", times, f"⟨{case}⟩", separator, "⟨=⟩"]
    text = "".join(answer[:-1])
    other = next(s for s in "-,/" if s != separator)
    assert not obeyed(item, text.swapcase() + "⟨end⟩")["case"]
    assert not obeyed(item, f"{text}{separator}{word}⟨end⟩")["times"]
    assert not obeyed(item, text)["ends"]
    assert not obeyed(item, text.replace(word[0], "").replace(word[0].upper(), "") + "⟨end⟩")["word"]
    assert not obeyed(item, f"{text}{other}{text}⟨end⟩")["separator"]


def test_facts_are_the_same_for_everybody_who_asks():
    told: dict[tuple[str, ...], set[str]] = {}
    for seed in range(300):
        _, prompt, answer = drawn("facts", seed, SPLITS[seed % 3])
        asked = prompt[4:-1]
        assert answer[:-1:2] == asked
        for attribute, value in zip(asked, answer[1:-1:2]):
            assert value.startswith(attribute[:-1] + " ")
            told.setdefault((*prompt[1:3], attribute), set()).add(value)
    assert all(len(values) == 1 for values in told.values())
    counts = Counter(next(iter(v)) for v in told.values())
    assert len(counts) > 30, "values are spread, so that guessing does not pay"


def test_people_without_questions_have_biographies_only():
    world = World(questioned=0.5)
    tasks = tasks_of(Vocabulary(world))
    seen = [tasks["facts"].draw(np.random.default_rng(s), "train") for s in range(200)]
    asked = {int(i.facet.split()[1]) for i in seen if i.task == "facts"}
    told = {int(i.facet.split()[1]) for i in seen if i.task == "biography"}
    assert max(asked) < 48 <= min(told)
    tested = {int(i.facet.split()[1]) for i in held_out(tasks, "test", count=100, seed=0, only=["facts"])}
    assert max(tested) >= 48 > min(tested)


def test_code_comes_from_the_files_of_its_split():
    files = {split: [data for name, data in library() if split_of_file(name) == split] for split in SPLITS}
    assert all(files.values())
    for split in SPLITS:
        for item in held_out(TASKS, split, count=5, seed=1, only=["code"]):
            text = VOCABULARY.text([*item.prompt[1:], *item.answer]).encode()
            assert any(text in data for data in files[split])
            assert len(item.prompt) + len(item.answer) == SMALL.window


@given(st.integers(0, 100), st.integers(0, 100))
def test_steps_depend_on_seed_and_number_alone(seed, step):
    mix = {"facts": 2, "sum": 2, "code": 1}
    assert training_step(TASKS, mix, seed=seed, step=step) == training_step(TASKS, mix, seed=seed, step=step)
    assert training_step(TASKS, mix, seed=seed, step=step) != training_step(TASKS, mix, seed=seed + 1, step=step)


def test_packing_loses_no_token():
    items = training_step(TASKS, CPU.mix, seed=0, step=0)
    counted = sum(len(i.answer) for i in items)
    for full in (False, True):
        batches = packed(items, tokens=1024, widths=CPU.widths, full=full)
        assert sum(int(b.counted.sum()) for b in batches) == counted
        assert all(b.tokens.numel() <= 1024 for b in batches)
        shapes = {tuple(b.tokens.shape) for b in batches}
        assert len(shapes) == len({s[1] for s in shapes}) or not full
    answers = Counter(i.answer for i in items)
    seen = Counter(tuple(b.tokens[r][b.counted[r]].tolist()) for b in batches for r in range(len(b.prompt)))
    assert seen - Counter({(): seen[()]}) == answers


def test_the_tokenizer_of_transformers_agrees(tmp_path):
    VOCABULARY.save(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for item in held_out(TASKS, "test", count=5, seed=0):
        text = VOCABULARY.text([*item.prompt, *item.answer])
        assert tokenizer(text)["input_ids"] == [*item.prompt, *item.answer]
        assert tokenizer.decode([*item.prompt, *item.answer]) == text
    assert tokenizer.eos_token_id == VOCABULARY.end
    assert tokenizer("§")["input_ids"] == [tokenizer.unk_token_id]


def test_worlds_are_written_and_read(tmp_path):
    LARGE.write(tmp_path)
    assert read_world(tmp_path) == LARGE
    with pytest.raises(InputError, match="different names"):
        World(people=10_000)
    with pytest.raises(InputError, match="without repeating"):
        World(pairs=(3, 40))
    (tmp_path / "quality.json").write_text('{"peoples": 3}')
    with pytest.raises(InputError, match="no description of tasks"):
        read_world(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_world(tmp_path / "nowhere")


def test_an_empty_evaluation_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        held_out(TASKS, "test", count=0, seed=0)
