"""Time of a slot of learning on random access, and how it grows with the users; for an idle machine."""

import pytest

from controllers.papers.access import Method, slot_seconds

pytestmark = pytest.mark.slow

MORE_PER_USER = 1.3
SLOT_US = 5.0  # 25 users, kappa 0; the specification measured 3.3
OWN, CONTENTION = Method(0, 1_000_000), Method(1, 1_000_000, contention=True)


@pytest.mark.parametrize("method", [OWN, CONTENTION], ids=["own", "contention"])
@pytest.mark.parametrize("side", [(10, 10), (25, 40)], ids=["100", "1000"])
def test_q9_a_slot_s_time_grows_at_most_linearly_with_the_users(method, side):
    few, many = slot_seconds([(5, 5), side], [method, method], 10_000, 25)
    assert many <= MORE_PER_USER * side[0] * side[1] / 25 * few


def test_a_slot_of_learning_of_25_users_takes_microseconds():
    assert slot_seconds([(5, 5)], [OWN], 10_000, 25)[0] <= SLOT_US * 1e-6
