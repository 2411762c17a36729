"""All steps by name, and what the end of each kind of operation does to its subject."""

from bmi.workflow.engine import Outcome, StepType
from bmi.workflow.steps import images, isolation, networks, nodes, power, promote, storage, switches, volumes

STEPS: dict[str, StepType] = {
    step.name: step
    for step in (
        *nodes.STEPS,
        *isolation.STEPS,
        *power.STEPS,
        *volumes.STEPS,
        *images.STEPS,
        *promote.STEPS,
        *networks.STEPS,
        *storage.STEPS,
        *switches.STEPS,
    )
}
OUTCOMES: dict[str, Outcome] = (
    nodes.OUTCOMES
    | isolation.OUTCOMES
    | volumes.OUTCOMES
    | images.OUTCOMES
    | promote.OUTCOMES
    | networks.OUTCOMES
    | storage.OUTCOMES
    | switches.OUTCOMES
)
