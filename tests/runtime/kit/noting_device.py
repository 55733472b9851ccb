"""A device that notes which hooks it is told, and fails where it is told to."""

from __future__ import annotations

from typing import Any

from sample_device import Sample


class Noting(Sample):
    """Notes what it is told, and fails where it is told to."""

    def __init__(self, **options: Any) -> None:
        self.told: list[str] = []
        self.script: dict[str, BaseException] = {}
        super().__init__(**options)

    def _note(self, hook: str) -> None:
        self.told.append(hook)
        if hook in self.script:
            raise self.script.pop(hook)

    def quiesce(self) -> None:
        self._note("quiesce")

    def resume(self) -> None:
        self._note("resume")

    def stop(self) -> None:
        self._note("stop")

    def start(self) -> None:
        self._note("start")

    def alternates(self) -> bool:
        """Whether each pair of hooks took turns, the one that says "on" first."""
        for on, off in (("start", "stop"), ("resume", "quiesce")):
            turns = [hook for hook in self.told if hook in (on, off)]
            if turns != [on, off] * (len(turns) // 2) + [on] * (len(turns) % 2):
                return False
        return True
