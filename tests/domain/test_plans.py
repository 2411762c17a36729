"""Plans: every order that safety hangs on."""

import pytest

from bmi.domain.plans import PLANS, POWER_CYCLE, POWER_ON, PROVISION, RELEASE, Plan, PlannedStep, claiming
from bmi.errors import InternalError


def before(plan: Plan, name: str) -> set[str]:
    """Everything that must be done before the step may start."""
    needs = {step.name: step.after for step in plan.steps}
    return {earlier for direct in needs[name] for earlier in {direct, *before(plan, direct)}}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_plan_is_found_by_its_kind_and_has_steps(plan: Plan) -> None:
    assert PLANS[plan.kind] is plan
    assert plan.steps
    assert plan.steps[0].after == ()


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([PlannedStep("a"), PlannedStep("a")], "repeats"),
        ([PlannedStep("a", ("b",)), PlannedStep("b")], "comes before"),
        ([PlannedStep("a", ("a",))], "comes before"),
        ([PlannedStep("a", ("nothing",))], "comes before"),
    ],
    ids=["twice", "circle", "itself", "unknown"],
)
def test_a_plan_that_cannot_be_followed_is_refused(steps: list[PlannedStep], reason: str) -> None:
    with pytest.raises(InternalError, match=reason):
        Plan("broken", tuple(steps))


@pytest.mark.parametrize(
    ("plan", "step", "needs"),
    [
        # What ran on the node before must never see the project's network …
        (PROVISION, "open_port", {"power_off"}),
        # … nor must the node boot what is not there.
        (PROVISION, "export_volume", {"clone_volume"}),
        (PROVISION, "power_on", {"power_off", "set_network_boot"}),
        (PROVISION, "await_up", {step.name for step in PROVISION.steps} - {"await_up"}),
        # A disk is taken away from a node that is off, and deleted when nobody can reach it.
        (RELEASE, "unexport_volume", {"power_off"}),
        (RELEASE, "delete_volume", {"power_off", "unexport_volume"}),
        # Nobody else gets a volume before the node that had it is off, and its export gone.
        (PLANS["detach"], "unexport_volume", {"power_off"}),
        (PLANS["attach"], "export_volume", {"power_off"}),
        (PLANS["attach"], "open_port", {"power_off"}),
        (PLANS["attach"], "await_up", {step.name for step in PLANS["attach"].steps} - {"await_up"}),
        # A disk is replaced when nobody has it.
        (PLANS["roll-back"], "roll_back_volume", {"require_off", "withdraw_volume"}),
        (PLANS["roll-back"], "export_volume", {"roll_back_volume"}),
        # The setting for the next boot is made while there is a next boot.
        (POWER_ON, "power_on", {"set_network_boot"}),
        (POWER_CYCLE, "power_on", {"power_off", "set_network_boot"}),
        (POWER_CYCLE, "await_up", {"power_on"}),
        (PLANS["free"], "unclaim_node", {"close_port"}),
        (PLANS["import-image"], "commit_image", {"convert_image", "build_boot"}),
        (PLANS["open-network"], "open_portal", {"attach_uplink"}),
        (PLANS["close-network"], "detach_uplink", {"close_portal"}),
    ],
    ids=lambda value: value.kind if isinstance(value, Plan) else value if isinstance(value, str) else "",
)
def test_a_step_comes_after_what_makes_it_safe(plan: Plan, step: str, needs: set[str]) -> None:
    assert needs <= before(plan, step)


def test_the_clone_is_made_while_the_node_is_busy_with_itself() -> None:
    """What needs no order runs side by side: the minutes of the firmware hide it."""
    for slow in ("power_off", "set_network_boot", "power_on"):
        assert not {"clone_volume", "export_volume"} & before(PROVISION, slow)


def test_a_release_closes_the_port_at_once_and_only_goes_forward() -> None:
    assert before(RELEASE, "close_port") == set()
    assert not RELEASE.undoable
    assert PROVISION.undoable


def test_what_a_volume_holds_survives_a_detachment_and_a_failed_attachment() -> None:
    for kind in ("detach", "attach", "roll-back", "flatten"):
        assert not {step.name for step in PLANS[kind].steps} & {"clone_volume", "delete_volume"}
    assert not PLANS["detach"].undoable


def test_a_node_is_claimed_before_anything_is_done_to_it() -> None:
    plan = claiming(PROVISION)
    assert (plan.kind, plan.undoable) == (PROVISION.kind, PROVISION.undoable)
    assert plan.steps[0] == PlannedStep("claim_node")
    assert all(step.after for step in plan.steps[1:])
    assert [step.name for step in plan.steps[1:]] == [step.name for step in PROVISION.steps]
