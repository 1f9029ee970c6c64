"""The learning rate warms up from the first step and ends where it should."""

from amazon_desc.model.schedule import warmup_cosine


def shares(num_steps: int, warmup: float, final: float) -> list[float]:
    return [round(warmup_cosine(step, num_steps, warmup, final), 3) for step in range(num_steps)]


def test_the_worked_example() -> None:
    assert shares(10, 0.2, 0.1) == [0.5, 1.0, 1.0, 0.966, 0.868, 0.722, 0.55, 0.378, 0.232, 0.134]


def test_the_first_step_learns_with_and_without_warm_up() -> None:
    assert shares(4, 0.0, 0.0)[0] == 1.0
    assert shares(100, 0.1, 0.0)[0] == 0.1


def test_a_run_that_is_all_warm_up_never_divides_by_nothing() -> None:
    assert shares(4, 0.99, 0.1) == [0.25, 0.5, 0.75, 1.0]


def test_steps_beyond_the_end_stay_at_the_final_share() -> None:
    assert warmup_cosine(50, 10, 0.1, 0.25) == 0.25
