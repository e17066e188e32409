"""What the tests of the stores on a server share."""

import random


class Calls:
    """What both ledgers are asked in one test: the same calls with the same clock."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def __iter__(self):
        pick = self.random
        for number in range(150):
            yield (
                pick.choice([0, 1, 700_000, 61_000_000, 3_600_000_000]),
                pick.choice(["consume", "consume", "consume", "peek", "reserve"]),
                pick.choice([1, 2, {"tokens": 3}]),
                pick.choice([None, "r"]),
                pick.choice([None, None, f"id{number % 7}"]),
            )
