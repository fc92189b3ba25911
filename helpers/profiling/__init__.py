"""Where the time of a training or a prediction goes: a budget, a machine's measured peaks, a profile, and fair comparisons."""

from helpers.profiling.budget import Budget, roofline, training_budget
from helpers.profiling.clock import Timing, interleave, synchronise
from helpers.profiling.machine import Machine, measure_machine
from helpers.profiling.steps import PHASES, TrainingStep, phase
from helpers.profiling.trace import Profile, profile_steps

__all__ = [
    "PHASES",
    "Budget",
    "Machine",
    "Profile",
    "Timing",
    "TrainingStep",
    "interleave",
    "measure_machine",
    "phase",
    "profile_steps",
    "roofline",
    "synchronise",
    "training_budget",
]
