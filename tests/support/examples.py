"""How many examples a property is tried with: some in `make test`, all in `make exhaustive`."""

from __future__ import annotations

from typing import Any

from hypothesis import Phase, settings

QUICK, THOROUGH = "quick", "thorough"
FIRST = "first"
"""As `QUICK`, with the same examples each time and no search for smaller ones: for mutants."""
EXAMPLES = 100
"""For a property that names no number of its own."""
SHARE = 5
"""`make test` tries one example of so many."""
MIN_EXAMPLES = 20


def register() -> None:
    """Make the profiles known, and take the quick one unless the command line names another."""
    # No test is a question of time: one example may take as long as a busy machine makes it.
    settings.register_profile(QUICK, deadline=None, max_examples=EXAMPLES // SHARE)
    settings.register_profile(THOROUGH, deadline=None, max_examples=EXAMPLES)
    settings.register_profile(
        FIRST,
        settings.get_profile(QUICK),
        derandomize=True,
        database=None,
        phases=(Phase.explicit, Phase.generate),
    )
    settings.load_profile(QUICK)


def examples(number: int, **more: Any) -> settings:
    """Return settings: so many examples in `make exhaustive`, a share of them in `make test`.

    Args:
        number: how many examples, if all are tried.
        more: other settings of hypothesis.
    """
    quick = settings.get_current_profile_name() in (QUICK, FIRST)
    tried = min(number, max(number // SHARE, MIN_EXAMPLES)) if quick else number
    return settings(max_examples=tried, **more)
