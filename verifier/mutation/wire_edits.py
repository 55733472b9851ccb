"""Every single edit of the table of the connection, and which of them change nothing."""

from __future__ import annotations

import dataclasses
import re
from typing import Final

from vfio_migration.model import Spec
from vfio_migration.model.wire import Wire
from vfio_migration.verifier.comparison.wires import differing
from vfio_migration.verifier.mutation.mutants import Mutant
from vfio_migration.verifier.mutation.row_edits import Form

_SECTIONS = (
    "header", "words", "flags", "choices", "limits", "options", "holdings", "commands", "features",
    "answers",
)  # fmt: skip
_NAMED = [section for section in _SECTIONS if section != "answers"]
_SUMMARISED = ("limits", "options", "holdings", "commands", "features")

WIRE_FORM: Final = Form(
    labels={
        "names, by which other rows and the software refer to a row; two that are exchanged are "
        "two numbers exchanged": frozenset(f"{section}.name" for section in _NAMED),
        "words for people": frozenset(
            {
                *("name", "title", "answers.reason"),
                *(f"{section}.source" for section in _SECTIONS),
                *(f"{section}.summary" for section in _SUMMARISED),
            }
        ),
        "every occasion has its row, and no file has two rows of one; an occasion without a row is "
        "a row dropped": frozenset({"answers.when"}),
    },
    ordered=frozenset({"answers"}),
    # How much this server keeps is its own choice, and any other number is one too, but for none.
    numbers={"limits.value": lambda value: (0,) if value else (1,)},
)
"""The edits of the table of the connection. The order of rows has a meaning in [[answers]] only."""

WIRE_KINDS: Final = {section: f"an edit of [[{section}]]" for section in _SECTIONS}
"""Every kind of edit: those of a section are one."""


def answered_alike(one: Wire, other: Wire, spec: Spec) -> bool:
    """Return whether two tables differ in [[answers]] alone and answer every message alike.

    That no message is answered differently, whatever has happened before it, a solver finds. Where
    anything else differs the two are not taken for equivalent; nor where the answer to a request
    that fails does, as that is no matter of the message.
    """
    if dataclasses.replace(other, answers=one.answers) != one:
        return False
    if one.answer("request_failed") != other.answer("request_failed"):
        return False
    return differing(one, other, spec).answer == "unsat"


ARGUED: Final[dict[str, frozenset[str]]] = {
    "how much may follow or be in a message, where the text names no bound, is our decision; W3 "
    "holds of any bound": frozenset(
        {"commands.request_bound", "commands.reply_bound", "commands.request_padding"}
    ),
    "the errno, or that the connection ends, is our decision where no source states it; W7 holds "
    "of any": frozenset({"answers.errno", "answers.outcome:fds_over_limit"}),
    "which mistake of a message with several is answered no text states": frozenset({"answers"}),
    "what comes with DMA_LOGGING_STOP is not looked at": frozenset(
        {"features.set_request_item:DMA_LOGGING_STOP"}
    ),
    "the row is in no text of vfio-user, but in Linux, in libvfio-user or in a proposal of ours: a "
    "table may be without it": frozenset(
        {
            *("flags:all", "flags:reinit", "flags.word:all", "flags.word:reinit"),
            *("choices:dma_map_way", "features:MIG_DATA_SIZE", "features:MIG_PRECOPY_INFOv2"),
        }
    ),
}
"""Why no obligation speaks of an edit that survives: fields ("section.field", ":row" if of one row
alone), and sections for rows dropped and swapped, by reason."""

_PLACE = re.compile(r"(\w+)\[(\d+)\](?:\.(\w+))?(.*)")


def argued(wire: Wire, mutant: Mutant[Wire]) -> str | None:
    """Return why no obligation is to speak of a mutant that none has killed; None if one is."""
    found = _PLACE.fullmatch(mutant.id)
    if found is None:
        return None
    section, index, field, written = found.groups()
    row = getattr(wire, section)[int(index)]
    place = section if field is None else f"{section}.{field}"
    names = {f"{place}:{getattr(row, 'name', None) or row.when}"}
    if field is not None or written == "<=>":
        names.add(place)
    return next((reason for reason, fields in ARGUED.items() if fields & names), None)
