"""Tasks of reasoning-gym (pip install reasoning-gym), with a second and a third try: a wrong answer is said to be wrong."""
import functools
import json

import reasoning_gym

WORTH = (1.0, 0.6, 0.3)  # of a right answer at the first, second, third try


@functools.lru_cache(maxsize=None)
def tasks(name, config):
    return reasoning_gym.create_dataset(name, **json.loads(config))


class Task:
    def reset(self, task, config, index):
        self.tasks = tasks(task, json.dumps(config))
        self.entry = self.tasks[index]

    def step(self, completion, turn, last):
        score = self.tasks.score_answer(answer=completion.strip(), entry=self.entry)
        if score >= 1.0:
            return None, {"environment": WORTH[turn - 1], "solved": 1}
        return "That is wrong. Try again.", {"environment": 0.1 * score if last else 0.0, "solved": 0}  # reasoning-gym's score of a near miss
