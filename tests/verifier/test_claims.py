"""Claims of a user's own: the documented example, and every way in which a file can be wrong."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import z3

from support.samples import sample
from support.table_edits import BROKEN, ROOT, broken, spec_of
from vfio_migration.cli.main import main
from vfio_migration.model import Spec, SpecError
from vfio_migration.verifier import Encoding, Lemma, Verdict, decide, load_claims, never
from vfio_migration.verifier.obligations.own_claims import LEMMAS
from vfio_migration.verifier.report.replay import second_opinion

EXAMPLE = ROOT / "docs/examples/claims.py"
PAGE = ROOT / "docs/own-claims.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


def written(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def decided(path: Path, spec: Spec) -> dict[str, Verdict]:
    encoding = Encoding(spec)
    return {claim.id: decide(claim, encoding) for claim in load_claims(path)}


# --- what the page specifies ---


@pytest.fixture(scope="module")
def verdicts() -> dict[str, Verdict]:
    from vfio_migration.model import load

    return decided(EXAMPLE, load())


def test_the_example_gives_one_answer_of_each_kind(verdicts: dict[str, Verdict]):
    outcomes = {name: verdict.outcome for name, verdict in verdicts.items()}
    assert outcomes == {"C1": "proved", "C2": "violated", "C3": "unknown"}


def test_the_proved_one_has_a_shortest_witness(verdicts: dict[str, Verdict], spec: Spec):
    witness = verdicts["C1"].witness
    assert witness is not None
    assert witness.trace is not None
    # Ask for it, enter it, go away: nothing after that, although longer runs were searched.
    assert [step.kind for step in witness.trace.steps] == ["request", "arc", "disconnect"]
    assert second_opinion(witness, spec) == "the live engine does the same (3 steps)"


def test_the_violated_one_has_a_shortest_trace(verdicts: dict[str, Verdict], spec: Spec):
    example = verdicts["C2"].example
    assert example is not None
    assert example.trace is not None
    assert [step.kind for step in example.trace.steps] == ["request", "arc", "arc_failed"]
    assert second_opinion(example, spec) == "the live engine does the same (3 steps)"


def test_the_unknown_one_states_why(verdicts: dict[str, Verdict]):
    reason = verdicts["C3"].reason
    assert reason is not None
    assert reason.startswith("the induction fails (never-broken)")


def test_the_unknown_one_is_proved_with_the_lemmas_it_lacks(tmp_path: Path, spec: Spec):
    text = EXAMPLE.read_text("utf-8")
    assert text.count("lemmas=(),") == 1
    path = written(tmp_path, text.replace("lemmas=(),", ""))
    assert decided(path, spec)["C3"].outcome == "proved"


def test_a_broken_table_breaks_the_proved_one():
    spec = spec_of(broken(BROKEN / "d6-reconnecting-heals.toml")[1])
    verdict = decided(EXAMPLE, spec)["C1"]
    assert verdict.outcome == "violated"
    assert verdict.example is not None
    assert second_opinion(verdict.example, spec) == "the live engine does the same (3 steps)"


def test_from_the_command_line(capsys):
    assert main(["verify", "--only", "C", "--claims", str(EXAMPLE), "--json"]) == 1
    answer = json.loads(capsys.readouterr().out)
    outcomes = {verdict["id"]: verdict["outcome"] for verdict in answer["verdicts"]}
    assert outcomes == {"C1": "proved", "C2": "violated", "C3": "unknown"}
    assert main(["verify", "--only", "C3", "--claims", str(EXAMPLE), "--json"]) == 3
    assert main(["verify", "--only", "C1", "--claims", str(EXAMPLE), "--json"]) == 0


def test_the_programs_of_the_page_run(tmp_path: Path, spec: Spec):
    first, lemma, other = BLOCKS
    assert {n: v.outcome for n, v in decided(written(tmp_path, first), spec).items()} == {
        "C1": "proved"
    }
    with_lemma = first.replace(
        "    ),\n)", '        lemmas=("supported", "under-way", mine),\n    ),\n)'
    )
    assert with_lemma != first
    verdict = decided(written(tmp_path, f"{lemma}\n{with_lemma}"), spec)["C1"]
    assert verdict.outcome == "proved"
    assert verdict.queries == 8  # three lemmas, twice; the claim; the witness
    verdict = decided(written(tmp_path, other), spec)["C4"]
    assert verdict.outcome == "proved"
    assert verdict.witness is not None
    assert " -> " in verdict.witness.text


def test_that_a_claims_file_is_run_is_stated_where_it_is_used(capsys: pytest.CaptureFixture[str]):
    """In the help of the option, on the page about such files, and in the threat model."""
    with pytest.raises(SystemExit):
        main(["verify", "--help"])
    reported = " ".join(capsys.readouterr().out.split())
    assert "in a Python file; its code is run" in reported
    assert "A claims file is a program: `verify` runs it as you." in PAGE.read_text("utf-8")
    model = PAGE.with_name("security.md").read_text("utf-8")
    assert "| `verify --claims FILE` | runs the file |" in model


def test_the_page_lists_what_there_is(spec: Spec):
    from vfio_migration.verifier.systems.device import DeviceSystem

    text = PAGE.read_text("utf-8")
    device = DeviceSystem.of(Encoding(spec))
    assert set(device.lemmas) == set(LEMMAS)
    for lemma in device.lemmas.values():
        assert f"| `{lemma.name}` | {lemma.words} |" in text
    for name in (*device.sorts, *device.events):
        assert f"`{name}`" in text


# --- never ---


def test_a_false_lemma_of_ones_own_proves_nothing(spec: Spec):
    claim = never(
        "C1",
        "Nothing is ever bad.",
        bad=lambda device, _now, event, _then: device.is_event(event, "reset"),
        premise=lambda device, _now, event, _then: device.is_event(event, "arc"),
        lemmas=[lambda _device: Lemma("no", "nothing is so", lambda now: now["open"] > 5)],
    )
    assert decide(claim, Encoding(spec)).outcome == "violated"


def test_a_claim_about_nothing_is_unknown(spec: Spec):
    claim = never(
        "C1",
        "No request leads nowhere from a state that the device does not support.",
        bad=lambda _device, _now, _event, _then: z3.BoolVal(False),
        premise=lambda device, now, _event, _then: z3.Not(device.encoding.supported(now["state"])),
        lemmas=["supported", "under-way"],
        depth=3,
    )
    verdict = decide(claim, Encoding(spec))
    assert verdict.outcome == "unknown"
    assert verdict.reason == "premise: the premise never happens, so a proof shows nothing"


def test_a_premise_that_takes_longer_than_was_searched_is_not_called_impossible(spec: Spec):
    """A second session needs a first one, with the arcs into it, out of it and in again."""
    claim = never(
        "C1",
        "No device fails in its second session.",
        bad=lambda device, now, event, _then: z3.BoolVal(False),
        premise=lambda _device, now, _event, _then: now["session"] == 2,
        depth=3,
    )
    verdict = decide(claim, Encoding(spec))
    assert verdict.outcome == "unknown"
    assert verdict.reason == (
        "premise: the premise does not happen within 3 steps; longer runs were not tried"
    )


def test_a_lemma_there_is_not_is_named():
    with pytest.raises(
        SpecError, match=r'"one_session": is not a lemma; did you mean "one-session"'
    ):
        never("C1", "s", lambda *_: 0, lambda *_: 0, lemmas=["one_session"])  # type: ignore[arg-type,return-value]


# --- files ---

GOOD = """\
from vfio_migration.verifier import never
def step(device, now, event, then):
    return device.is_event(event, "reset")
def one(id_, bad=step, premise=step):
    return never(id_, "No device is ever reset.", bad, premise)
"""


@pytest.mark.parametrize(
    "claims",
    [
        "claims = [one('C1'), one('CC12')]",
        "def claims():\n    return one('C1'), one('CC12')",
        "def claims():\n    yield one('C1')\n    yield one('CC12')",
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    a: 'int' = 0\n"
        "claims = one('C1'), one('CC12')",
    ],
)
def test_a_file_defines_a_list_or_a_function(tmp_path: Path, claims: str):
    assert [claim.id for claim in load_claims(written(tmp_path, GOOD + claims))] == ["C1", "CC12"]


def test_what_it_prints_does_not_disturb(tmp_path: Path, capsys):
    load_claims(written(tmp_path, GOOD + "print('hello')\nclaims = [one('C1')]"))
    reported = capsys.readouterr()
    assert (reported.out, reported.err) == ("", "hello\n")


WRONG: dict[str, tuple[str | bytes, str]] = {
    "syntax": ("x = 1\nclaims = (\n", "mine.py:2: is not valid Python: "),
    "not utf-8": (b"x = '\xff'\n", "mine.py:1: is not valid Python: "),
    "nul": (b"\0", "mine.py:"),
    "deep": ("-" * 100_000 + "1", "mine.py:1: is not valid Python: "),
    "raises": (GOOD + "\nclaims = [1 / 0]", "mine.py:7: raises ZeroDivisionError: division by"),
    "raises without words": ("raise ValueError", "mine.py:1: raises ValueError; python "),
    "exits": ("import sys\nsys.exit(0)", "mine.py:2: raises SystemExit: 0; python "),
    "imports": ("import nothing_like_it", "mine.py:1: raises ModuleNotFoundError: No module"),
    "inside": ("def f():\n    return {}['x']\nf()", "mine.py:2: raises KeyError: 'x'"),
    "no claims": ("x = 1", "mine.py:1: defines no claims; add claims = (never(...), ...)"),
    "misspelt": ("claim = ()", 'mine.py:1: defines no claims; did you mean "claim"?'),
    "a number": ("\nclaims = 5", "mine.py:2: claims is of type int; make it a tuple"),
    "a string": ("claims = 'C1'", "mine.py:1: claims is of type str; make it a tuple"),
    "one alone": (GOOD + "claims = one('C1')", "mine.py:6: claims is of type Obligation; make"),
    "empty": ("claims = ()", "mine.py:1: claims is empty; add an obligation, or leave"),
    "wants more": ("def claims(x): ...", "mine.py:1: raises TypeError: claims() missing 1"),
    "function raises": ("def claims():\n    yield x", "mine.py:2: raises NameError: name 'x'"),
    "items": (GOOD + "claims = one('C1'), 7", "mine.py:6: claims[1] is of type int, no obligation"),
    "id": (GOOD + "claims = [\n    one('mine'),\n]", "mine.py:7: claims[0] has the id 'mine'; let"),
    "id no text": (GOOD + "claims = [one(7)]", "claims[0] has the id 7; letters and a number"),
    "built-in": (GOOD + "claims = [one('T4')]", "the id T4, but family T is built in; choose"),
    "family": (GOOD + "claims = [one('D99')]", "D99, but family D is built in; choose other"),
    "twice": (GOOD + "claims = [one('C1'), one('C1')]", "mine.py:6: two claims have the id C1;"),
    "lemma": (
        GOOD + "claims = [never('C1', 's', step, step, lemmas=['x'])]",
        'mine.py:6: raises lemmas of C1: "x": is not a lemma; there are supported, under-way',
    ),
    "statement": (
        "from vfio_migration.verifier import Obligation\n"
        "claims = [Obligation('C1', '', 'all', 'symbolic', 'why', list)]",
        "mine.py:2: C1: its statement is ''; write a sentence",
    ),
    "method": (
        "from vfio_migration.verifier import Obligation\n"
        "claims = [Obligation('C1', 's', 'all', 'magic', 'why', list)]",
        "mine.py:2: C1: its method is 'magic'; take one of symbolic, ",
    ),
    "queries": (
        "from vfio_migration.verifier import Obligation\n"
        "claims = [Obligation('C1', 's', 'all', 'symbolic', 'why', [])]",
        "mine.py:2: C1: its queries is not a function; give a function from an Encoding",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_found_by_line(tmp_path: Path, name: str):
    text, message = WRONG[name]
    with pytest.raises(SpecError) as error:
        load_claims(written(tmp_path, text))
    assert message in str(error.value)
    (mistake,) = error.value.mistakes
    assert re.search(r"mine\.py:\d+$", mistake.place)
    assert mistake.hint


@pytest.mark.parametrize("name", ["missing.py", ".", "a\0b"])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str):
    with pytest.raises(SpecError, match=r"--claims: .*cannot be read: .*; name a Python file"):
        load_claims(tmp_path / name)


LATER = {
    "raises": (
        "def bad(device, now, event, then):\n    return now['stat'] == 1\n"
        "claims = [one('C1', bad)]",
        "mine.py:7: raises KeyError: 'stat'; mend what C1 computes there",
    ),
    "no such state": (
        "def bad(device, now, event, then):\n"
        "    return now['state'] == device.encoding.state('STOPP')\n"
        "claims = [one('C1', bad)]",
        "mine.py:7: raises KeyError: 'STOPP'; mend what C1 computes there",
    ),
    "no formula": (
        "claims = [one('C1', lambda *_: 'x' == 'x')]",
        "mine.py:6: C1: never-broken holds a bool, no formula; compare z3 terms",
    ),
    "takes too little": (
        "claims = [one('C1', lambda device, now: now)]",
        "mine.py:6: raises TypeError: ",
    ),
    "no query": (
        "from vfio_migration.verifier import Obligation\n"
        "claims = [Obligation('C1', 's', 'all', 'symbolic', 'why', lambda _: [3])]",
        "mine.py:7: C1 yields a int; its functions must yield queries",
    ),
    "no iterable": (
        "from vfio_migration.verifier import Obligation\n"
        "claims = [Obligation('C1', 's', 'all', 'symbolic', 'why', lambda _: 3)]",
        "mine.py:7: raises TypeError: 'int' object is not iterable",
    ),
    "telling": (
        "from vfio_migration.verifier import Obligation, Query\n"
        "def tell(model):\n    return model.no_such_thing\n"
        "def queries(encoding):\n"
        "    yield Query('q', 'claim', (encoding.universe,), 'unsat', tell)\n"
        "claims = [Obligation('C1', 's', 'all', 'symbolic', 'why', queries)]",
        "mine.py:8: raises AttributeError: ",
    ),
}


@pytest.mark.parametrize("name", LATER)
def test_what_goes_wrong_later_is_found_by_line_too(tmp_path: Path, spec: Spec, name: str):
    text, message = LATER[name]
    (claim,) = load_claims(written(tmp_path, GOOD + text))
    with pytest.raises(SpecError) as error:
        decide(claim, Encoding(spec))
    assert message in str(error.value)


@pytest.mark.parametrize("text", sample([WRONG["raises"][0], GOOD + LATER["raises"][0]], 2))
def test_no_traceback_on_the_command_line(tmp_path: Path, text: str):
    path = written(tmp_path, text)
    done = subprocess.run(
        [sys.executable, "-m", "vfio_migration.cli.main", "verify", "--claims", str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("vfio-migration: error: ")
    assert f"{path}:7: raises " in done.stderr
    assert "Traceback" not in done.stderr
