"""What worlds read of the timing a scenario gives their seats."""

from collections.abc import Mapping
from typing import Any

from twin.errors import ScenarioError


def each_slot(agents: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    """Delay and window of a seat that decides in every slot, as twin.types.Agent takes them.

    agents  by seat: objects with every (None or 1), delay, window; seats not named have the defaults

    Raises ScenarioError for another control cycle.
    """
    seating = (agents or {}).get(name)
    if (every := getattr(seating, "every", None)) not in (None, 1):
        raise ScenarioError(f"agent.{name}.every must be 1, this seat decides in every slot, got {every}")
    return {"delay": getattr(seating, "delay", 0), "window": getattr(seating, "window", None)}
