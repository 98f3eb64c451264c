"""One algorithm, one file, readable on its own; `controllers.nets` is the only learning code they share.

A controller is any class built as Class(agent, seed, **options) with act(seen) -> twin.Action; options are keyword
arguments with types and defaults, which is how a scenario's keys are checked. It may also have learn() and adopt():
see twin.types.Controller. Scenarios name those that ship by a word (twin.scenario.CONTROLLERS), all others as
"module:Class"; nothing has to be registered. docs/controllers.md writes one in 20 lines.
"""
