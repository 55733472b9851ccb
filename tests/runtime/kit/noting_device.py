"""A device that notes which hooks it is notified, and fails where the script has it."""

from __future__ import annotations

from typing import Any

from sample_device import Sample


class Noting(Sample):
    """Notes what it is notified, and fails where the script has it."""

    def __init__(self, **options: Any) -> None:
        self.recorded: list[str] = []
        self.script: dict[str, BaseException] = {}
        super().__init__(**options)

    def _note(self, hook: str) -> None:
        self.recorded.append(hook)
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
        """Whether each pair of hooks took turns, the one that states "on" first."""
        for on, off in (("start", "stop"), ("resume", "quiesce")):
            turns = [hook for hook in self.recorded if hook in (on, off)]
            if turns != [on, off] * (len(turns) // 2) + [on] * (len(turns) % 2):
                return False
        return True
