"""Prompts that begin alike are put together where that saves most."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer_svc.engine.generation.plainly import ids
from trainer_svc.engine.generation.prompts import Alike, Prompt, alike


def prompts(*token_ids: list[int], job: str | None = None) -> list[Prompt]:
    return [Prompt(each, job, 1) for each in token_ids]


def grouped(made: list[Prompt]) -> set[tuple[str | None, int, frozenset[int]]]:
    groups = alike(made, range(len(made)), share=True)
    return {(group.job, group.prefix, frozenset(group.members)) for group in groups}


def test_the_same_beginning_is_shared() -> None:
    long = ids(100, 1)
    made = prompts([*long, 5], [*long, 6, 7], [*long, 8])
    assert grouped(made) == {(None, 100, frozenset({0, 1, 2}))}


def test_each_job_has_its_own_keys() -> None:
    long = ids(100, 1)
    made = prompts([*long, 5], [*long, 6]) + prompts([*long, 5], [*long, 6], job="a")
    assert grouped(made) == {(None, 100, frozenset({0, 1})), ("a", 100, frozenset({2, 3}))}


def test_few_shot_prompts_leave_those_that_only_begin_like_them() -> None:
    system, shots = ids(20, 1), ids(700, 2)
    plain = [[*system, 300 + n, n] for n in range(50)]
    few = [[*system, *shots, 300 + n, n] for n in range(50)]
    assert grouped(prompts(*plain, *few)) == {
        (None, 20, frozenset(range(50))),
        (None, 720, frozenset(range(50, 100))),
    }


def test_a_prefix_that_saves_little_is_none() -> None:
    assert grouped(prompts([1, 2, 3, 4], [1, 2, 3, 5])) == {(None, 0, frozenset({0, 1}))}


def test_every_prompt_keeps_a_token_of_its_own() -> None:
    long = ids(100, 1)
    assert grouped(prompts(long, long, [*long, 4])) == {(None, 99, frozenset({0, 1, 2}))}


def test_lists_and_tuples_of_ids_are_the_same() -> None:
    long = ids(100, 1)
    made = [Prompt([*long, 5], None, 1), Prompt((*long, 6), None, 1)]
    assert grouped(made) == {(None, 100, frozenset({0, 1}))}


def test_without_sharing_prompts_go_by_job() -> None:
    long = ids(100, 1)
    made = prompts([*long, 5], [*long, 6]) + prompts(long, job="a")
    assert alike(made, [2, 0], share=False) == [Alike("a", 0, [2]), Alike(None, 0, [0])]


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=90), min_size=1, max_size=30))
def test_each_is_in_one_group_whose_prefix_it_has(made: list[list[int]]) -> None:
    groups = alike(prompts(*made), range(len(made)), share=True)
    assert sorted(number for group in groups for number in group.members) == list(range(len(made)))
    for group in groups:
        first = made[group.members[0]][: group.prefix]
        assert all(made[number][: group.prefix] == first for number in group.members)
        assert all(len(made[number]) > group.prefix for number in group.members)
        lengths = [len(made[number]) for number in group.members]
        assert lengths == sorted(lengths)
