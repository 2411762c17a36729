"""All steps by name, and what the end of each kind of operation does to its subject."""

from bmi.workflow.engine import Outcome, StepType
from bmi.workflow.steps import images, networks, nodes

STEPS: dict[str, StepType] = {step.name: step for step in (*nodes.STEPS, *images.STEPS, *networks.STEPS)}
OUTCOMES: dict[str, Outcome] = nodes.OUTCOMES | images.OUTCOMES | networks.OUTCOMES
