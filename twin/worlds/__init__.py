"""One file per world: a class that satisfies twin.types.World, and its Settings, the scenario's tables that it reads."""
