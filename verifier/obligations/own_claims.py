"""Claims of a user's own: how to make them, and how a file of them is read.

A claims file is Python. It defines `claims`: a list or tuple of obligations, or a function that
takes nothing and returns one. `never` makes a claim about one device in a few lines; any
`Obligation` will do. `docs/own-claims.md` explains, with a file that is tested.

A file that is wrong, or goes wrong later while its formulas are made, gives a `SpecError` that
names file and line.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import re
import sys
import traceback
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeAlias, get_args

import z3

from vfio_migration.model import SpecError
from vfio_migration.model.errors import Mistake, closest, did_you_mean, why
from vfio_migration.verifier.obligations.catalogue import FAMILIES
from vfio_migration.verifier.solver.encoding import Encoding, Formula
from vfio_migration.verifier.solver.obligation import Example, Method, Obligation, Query
from vfio_migration.verifier.solver.system import Lemma, Situation, Term
from vfio_migration.verifier.solver.terms import any_of
from vfio_migration.verifier.systems.device import DeviceSystem

Step: TypeAlias = Callable[[DeviceSystem, Situation, Term, Situation], Formula]
"""Something about one step of a device: the device, the situation before, the event, after."""

LEMMAS = ("supported", "under-way", "setting-out", "one-session", "numbered")
"""What `never` leans on by default: `DeviceSystem.lemmas` states what they state."""

DEPTH = 7
"""How many events are searched for a witness and, if an induction fails, for a run that breaks."""


def never(
    id_: str,
    statement: str,
    bad: Step,
    premise: Step,
    *,
    lemmas: Sequence[str | Callable[[DeviceSystem], Lemma]] = LEMMAS,
    why: str = "a claim of the user's own",
    depth: int = DEPTH,
) -> Obligation:
    """Claim that no step of one device is ever bad, in runs of any length.

    It is proved by induction: from no situation in which the lemmas hold does a bad step lead on.
    If that fails, the runs of up to `depth` events from the start are searched, shortest first; if
    none of them is bad either the claim is unknown, and a lemma is what it lacks.

    Args:
        id_: Capital letters, then a number: "C1". The letters must not be those of a family that
            comes with the verifier.
        statement: The claim, one English sentence.
        bad: The step that must never happen.
        premise: A step that shows that the claim speaks of something; one must happen within
            `depth` events.
        lemmas: What holds in every situation and is used in the proof: names of those that come
            with the device, or functions that make one of your own. All are proved too.
        why: Why a reader should care that it holds.
        depth: How many events are searched.

    Raises:
        SpecError: If a lemma has the name of none.
    """
    for name in lemmas:
        if isinstance(name, str) and name not in LEMMAS:
            hint = did_you_mean(closest(name, LEMMAS)) or f"there are {', '.join(LEMMAS)}"
            raise SpecError([Mistake(f"lemmas of {id_}", name, "is not a lemma", hint)])

    def of(device: DeviceSystem, step: Step) -> Callable[[Situation, Term, Situation], Formula]:
        return lambda now, event, then: step(device, now, event, then)

    def queries(encoding: Encoding) -> Iterator[Query]:
        device = DeviceSystem.of(encoding)
        held = [device.lemmas[one] if isinstance(one, str) else one(device) for one in lemmas]
        yield from device.inductive(held)
        yield from device.never("broken", of(device, bad), held)
        yield _witness(device, of(device, premise), held, depth)

    def search(encoding: Encoding) -> Iterator[Query]:
        device = DeviceSystem.of(encoding)
        yield from device.bounded(of(device, bad), depth)

    ranges_over = "every run of one device and its client, of any length, all capability sets"
    return Obligation(id_, statement, ranges_over, "induction", why, queries, search)


def _witness(
    device: DeviceSystem,
    premise: Callable[[Situation, Term, Situation], Formula],
    lemmas: Sequence[Lemma],
    depth: int,
) -> Query:
    """Find the shortest run that shows the premise. Every run can go on, so `depth` covers all."""
    run = [device.situation(moment) for moment in range(depth + 1)]
    shown = [premise(run[moment], device.event(moment), run[moment + 1]) for moment in range(depth)]

    def explain(model: z3.ModelRef | None) -> Example:
        assert model is not None
        last = next(i for i, formula in enumerate(shown) if z3.is_true(model.eval(formula, True)))
        fired = [
            device.events[model.eval(device.event(moment), True).as_long()]
            for moment in range(last + 1)
        ]
        return device.example_of(model, run[: last + 2], fired)

    def anywhere() -> Query:
        held = [lemma.formula(run[0]) for lemma in lemmas]
        step = (device.facts, device.step(0), *held, shown[0])
        return Query("premise-anywhere", "step", step, "unsat", lambda _: Example("it can happen"))

    return Query(
        "premise",
        "witness",
        device.run(depth, any_of(shown)),
        "sat",
        explain,
        shorter=tuple(shown),
        within=depth,
        impossible=anywhere,
    )


# --- reading a file of claims ---


def load_claims(path: str | Path) -> tuple[Obligation, ...]:
    """Read the claims of a Python file.

    The file is run. What it prints goes to standard error.

    Raises:
        SpecError: If it cannot be read or run, or does not define claims as it should. The claims
            returned raise it too, if making their formulas goes wrong.
    """
    return _File(Path(path)).claims()


_ID = re.compile(r"([A-Z]+)[0-9]+")


class _File:
    """A file of claims, and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            source = path.read_bytes()
        except (OSError, ValueError) as error:
            problem = f"cannot be read: {why(error)}"
            hint = "name a Python file that defines claims"
            raise SpecError([Mistake("--claims", str(path), problem, hint)]) from None
        try:
            self.tree = ast.parse(source, str(path))
            self.code = compile(source, str(path), "exec", dont_inherit=True)
        except SyntaxError as error:
            self.wrong(f"is not valid Python: {error.msg}", "mend it there", error.lineno or 1)
        except (ValueError, RecursionError, MemoryError) as error:
            # The last two are what Python reports of what is nested too deeply.
            self.wrong(
                f"is not valid Python: {str(error) or 'it is nested too deeply'}",
                "mend it there",
                1,
            )

    def wrong(self, problem: str, hint: str | None, line: int | None = None) -> NoReturn:
        """Raise the `SpecError` for something wrong in a line, by default that of `claims`."""
        place = f"{self.path}:{line or self.line_of('claims')}"
        raise SpecError([Mistake(place, None, problem, hint)]) from None

    def line_of(self, name: object) -> int:
        """The line in which a name is defined, or a string is; the first if there is none."""
        for node in ast.walk(self.tree):
            if (
                (isinstance(node, ast.Name) and node.id == name and _stores(node))
                or (isinstance(node, ast.FunctionDef) and node.name == name)
                or (isinstance(node, ast.Constant) and node.value == name)
            ):
                return node.lineno
        return 1

    @contextlib.contextmanager
    def blamed(self, hint: str) -> Iterator[None]:
        """Turn what is raised inside into a `SpecError` that names the line of the file."""
        try:
            yield
        except (Exception, SystemExit) as error:  # noqa: BLE001 - it is the user's file
            frames = traceback.extract_tb(error.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == str(self.path)]
            why = str(error) if isinstance(error, SpecError) else f"{type(error).__name__}: {error}"
            self.wrong(f"raises {why.removesuffix(': ')}", hint, lines[-1] if lines else None)

    def claims(self) -> tuple[Obligation, ...]:
        """Run the file and check what it defines."""
        module = types.ModuleType("vfio_migration_claims")
        module.__file__ = str(self.path)
        # Dataclasses, among others, look the module of a class up.
        sys.modules[module.__name__] = module
        whole = f"python {self.path} shows the whole traceback"
        with self.blamed(whole), contextlib.redirect_stdout(sys.stderr):
            exec(self.code, module.__dict__)
        names = [name for name in vars(module) if not name.startswith("_")]
        if "claims" not in names:
            near = did_you_mean(closest("claims", names))
            self.wrong("defines no claims", near or "add claims = (never(...), ...)", 1)
        found: Any = module.__dict__["claims"]
        with self.blamed(whole), contextlib.redirect_stdout(sys.stderr):
            found = found() if callable(found) else found
            listed = isinstance(found, Iterable) and not isinstance(found, str | bytes | dict)
            items = list(found) if listed else []
        if not listed:
            what = type(found).__name__
            self.wrong(f"claims is of type {what}", "make it a tuple of obligations: (one,)")
        if not items:
            self.wrong("claims is empty", "add an obligation, or leave --claims out")
        for index, item in enumerate(items):
            self._check(index, item, items[:index])
        return tuple(self._guarded(item) for item in items)

    def _check(self, index: int, item: object, before: Sequence[Obligation]) -> None:
        place = f"claims[{index}]"
        if not isinstance(item, Obligation):
            hint = "make it with never(...) or Obligation(...)"
            self.wrong(f"{place} is of type {type(item).__name__}, no obligation", hint)
        line = self.line_of(item.id)
        given: object = item.id
        matched = _ID.fullmatch(given) if isinstance(given, str) else None
        if matched is None:
            self.wrong(f"{place} has the id {item.id!r}", 'letters and a number: "C1"', line)
        if matched[1] in FAMILIES:
            problem = f"{place} has the id {item.id}, but family {matched[1]} is built in"
            self.wrong(problem, f'choose other letters: "{"C" * len(matched[1])}1"', line)
        if any(item.id == other.id for other in before):
            self.wrong(f"two claims have the id {item.id}", "give each one of its own", line)
        for name in ("statement", "ranges_over", "why"):
            value: object = getattr(item, name)
            if not isinstance(value, str) or not value.strip():
                self.wrong(f"{item.id}: its {name} is {value!r}", "write a sentence", line)
        if item.method not in get_args(Method):
            hint = f"take one of {', '.join(get_args(Method))}"
            self.wrong(f"{item.id}: its method is {item.method!r}", hint, line)
        for name in ("queries", "search"):
            if not callable(getattr(item, name)) and (name, item.search) != ("search", None):
                hint = "give a function from an Encoding to queries"
                self.wrong(f"{item.id}: its {name} is not a function", hint, line)

    # --- what goes wrong later ---

    def _guarded(self, item: Obligation) -> Obligation:
        def guard(
            make: Callable[[Encoding], Iterable[Query]],
        ) -> Callable[[Encoding], Iterable[Query]]:
            return lambda encoding: self._queries(item, make, encoding)

        search = None if item.search is None else guard(item.search)
        return dataclasses.replace(item, queries=guard(item.queries), search=search)

    def _queries(
        self, item: Obligation, make: Callable[[Encoding], Iterable[Query]], encoding: Encoding
    ) -> Iterator[Query]:
        hint = f"mend what {item.id} computes there"
        with self.blamed(hint):
            made = iter(make(encoding))
        while True:
            with self.blamed(hint):
                query: object = next(made, None)
            if query is None:
                return
            line = self.line_of(item.id)
            if not isinstance(query, Query):
                what = f"{item.id} yields a {type(query).__name__}"
                self.wrong(what, "its functions must yield queries", line)
            for formula in (*query.formulas, *query.shorter):
                if not isinstance(formula, z3.BoolRef):
                    what = f"{item.id}: {query.name} holds a {type(formula).__name__}, no formula"
                    self.wrong(what, "compare z3 terms; z3.BoolVal makes one of a bool", line)
            yield dataclasses.replace(query, explain=self._explained(query.explain, hint))

    def _explained(
        self, explain: Callable[[z3.ModelRef | None], Example], hint: str
    ) -> Callable[[z3.ModelRef | None], Example]:
        @functools.wraps(explain)
        def why(model: z3.ModelRef | None) -> Example:
            with self.blamed(hint):
                return explain(model)

        return why


def _stores(node: ast.Name) -> bool:
    return isinstance(node.ctx, ast.Store)
