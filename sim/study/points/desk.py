"""Where points are asked for: each question is answered once, by the store or by whoever computes."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace

from sim.errors import InputError
from sim.study.points.identity import source_version
from sim.study.points.point import Answer, Point, Question, Resolver, answer_of
from sim.study.points.runners import each
from sim.study.points.space import Settings, Space
from sim.study.points.store import Store

Tell = Callable[[int, int], None]  # points answered, points asked


class Desk:
    """Points by their settings, answers by their key; an answer is kept the moment it is there."""

    def __init__(self, space: Space, pool: Executor | None, store: Store | None, tell: Tell) -> None:
        self._resolver, self._pool, self._store, self._tell = Resolver(space), pool, store, tell
        self._points: dict[tuple[object, ...], Point] = {}
        self._compiled = pool is None
        self.answers: dict[str, Answer] = {}
        self.reused = 0  # answers that the store had

    @property
    def asked(self) -> list[Point]:
        """Every point once, in the order of asking."""
        return list(self._points.values())

    def points(self, wanted: Iterable[Settings]) -> list[Point]:
        """The points of these settings. Raises UnknownName for a name that nobody knows."""
        keys = []
        for settings in wanted:
            keys.append(tuple(settings.values()))
            if keys[-1] not in self._points:
                self._points[keys[-1]] = self._resolver.point(settings)
        return [self._points[key] for key in keys]

    def answer(self, points: Sequence[Point]) -> None:
        """See to it that every point that can be has its answer. Raises InputError where a worker is of no use."""
        questions: dict[str, tuple[Question]] = {}
        for point in points:
            if point.question and point.key and point.key not in self.answers:
                known = self._store.get(point.key) if self._store else None
                if known is None:
                    questions[point.key] = (point.question,)
                else:
                    self.answers[point.key] = known
                    self.reused += 1
        self._compile_once(questions)
        self._say()
        for key, (version, answer) in each(self._pool, answer_of, questions):
            if version != source_version():
                raise InputError(
                    f"a worker runs another version of elide or its libraries ({version}, not {source_version()}); give"
                    " every machine of the cluster the same"
                )
            if self._store:
                self._store.put(key, answer)
            self.answers[key] = answer
            self._say()

    def _compile_once(self, questions: dict[str, tuple[Question]]) -> None:
        """Compile the loop, before several processes would all at once."""
        if questions and not self._compiled:
            service = replace(next(iter(questions.values()))[0].service)
            service.run(service.load.alone(1))
            self._compiled = True

    def _say(self) -> None:
        self._tell(sum(p.key is None or p.key in self.answers for p in self._points.values()), len(self._points))
