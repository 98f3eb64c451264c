"""One file per world: a class that satisfies twin.types.World, and its Settings, the tables of a scenario."""
