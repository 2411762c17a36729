"""What each kind of operation consists of: its steps and which of them wait for which.

Steps without an order between them run side by side, so that the minutes a node spends in its
firmware hide everything else.
"""

from dataclasses import dataclass

from bmi.errors import InternalError

# The steps that ask for a change of a switch port, and wait for it.
PORT_STEPS = ("open_port", "close_port")


@dataclass(frozen=True)
class PlannedStep:
    name: str
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The steps of one kind of operation. With `undoable`, a failure or a cancellation undoes what was
    done, backwards; without, it stops where it is and a retry goes on from there.
    """

    kind: str
    steps: tuple[PlannedStep, ...]
    undoable: bool = True

    def __post_init__(self) -> None:
        known: set[str] = set()
        for step in self.steps:
            if step.name in known or not known.issuperset(step.after):
                raise InternalError(
                    f"Plan {self.kind}: step {step.name} repeats or comes before what it needs."
                )
            known.add(step.name)


PROVISION = Plan(
    "provision",
    (
        PlannedStep("clone_volume"),
        PlannedStep("power_off"),
        PlannedStep("export_volume", ("clone_volume",)),
        # Only once the node is off: what ran on it before must never see the project's network.
        PlannedStep("open_port", ("power_off",)),
        PlannedStep("set_network_boot", ("power_off",)),
        PlannedStep("power_on", ("set_network_boot",)),
        PlannedStep("await_up", ("power_on", "export_volume", "open_port")),
    ),
)

# A release only goes forward: giving a half-released disk back would be neither safe nor wanted.
RELEASE = Plan(
    "release",
    (
        PlannedStep("close_port"),
        PlannedStep("power_off"),
        PlannedStep("unexport_volume", ("power_off",)),
        PlannedStep("delete_volume", ("unexport_volume",)),
    ),
    undoable=False,
)

# The node goes, its volume stays: whoever gets it next must be the only one that writes to it.
DETACH = Plan(
    "detach",
    (
        PlannedStep("close_port"),
        PlannedStep("power_off"),
        PlannedStep("unexport_volume", ("power_off",)),
    ),
    undoable=False,
)
# A provision of a volume that exists: nothing is cloned, and nothing is deleted when it fails.
ATTACH = Plan(
    "attach",
    (
        PlannedStep("power_off"),
        PlannedStep("export_volume", ("power_off",)),
        PlannedStep("open_port", ("power_off",)),
        PlannedStep("set_network_boot", ("power_off",)),
        PlannedStep("power_on", ("set_network_boot",)),
        PlannedStep("await_up", ("power_on", "export_volume", "open_port")),
    ),
)

# Where nodes are taken from a service beside BMI, that gives them to projects of its own. Claimed alone, before
# anything is done to the node; given back when its ports are closed for certain.
ALLOCATE = Plan("allocate", (PlannedStep("claim_node"),))
FREE = Plan("free", (PlannedStep("close_port"), PlannedStep("unclaim_node", ("close_port",))), undoable=False)
# What a NIC should be on is written down; these wait until its switch port is so.
ATTACH_NETWORK = Plan("attach-network", (PlannedStep("join_network"),))
DETACH_NETWORK = Plan("detach-network", (PlannedStep("leave_network"),), undoable=False)
# The nodes of that service, as far as BMI does not know them.
SYNC_NODES = Plan("sync-nodes", (PlannedStep("sync_nodes"),), undoable=False)


def claiming(plan: Plan) -> Plan:
    """The plan for a node that has to be claimed first."""
    steps = (PlannedStep(step.name, step.after or ("claim_node",)) for step in plan.steps)
    return Plan(plan.kind, (PlannedStep("claim_node"), *steps), plan.undoable)


REGISTER = Plan("register", (PlannedStep("close_port"), PlannedStep("check_bmc")), undoable=False)
UNREGISTER = Plan("unregister", (PlannedStep("close_port"),), undoable=False)

POWER_ON = Plan(
    "power-on",
    (PlannedStep("set_network_boot"), PlannedStep("power_on", ("set_network_boot",))),
    undoable=False,
)
POWER_OFF = Plan("power-off", (PlannedStep("power_off"),), undoable=False)
POWER_CYCLE = Plan(
    "power-cycle",
    (
        PlannedStep("power_off"),
        PlannedStep("set_network_boot", ("power_off",)),
        PlannedStep("power_on", ("set_network_boot",)),
        PlannedStep("await_up", ("power_on",)),
    ),
    undoable=False,
)

IMPORT_IMAGE = Plan(
    "import-image",
    (
        PlannedStep("convert_image"),
        PlannedStep("build_boot", ("convert_image",)),
        PlannedStep("commit_image", ("build_boot",)),
    ),
)
FETCH_IMAGE = Plan(
    "fetch-image",
    (
        PlannedStep("fetch_image"),
        PlannedStep("convert_image", ("fetch_image",)),
        PlannedStep("build_boot", ("convert_image",)),
        PlannedStep("commit_image", ("build_boot",)),
    ),
)
# From another image, a snapshot or an image that the store holds already: nothing is copied.
PROMOTE_IMAGE = Plan(
    "promote-image", (PlannedStep("promote_image"), PlannedStep("derive_boot", ("promote_image",)))
)
PROMOTE_VOLUME = Plan(
    "promote-volume",
    (
        PlannedStep("snapshot_volume"),
        PlannedStep("promote_image", ("snapshot_volume",)),
        PlannedStep("derive_boot", ("promote_image",)),
        PlannedStep("drop_snapshot", ("derive_boot",)),
    ),
)
ADOPT_IMAGE = Plan("adopt-image", (PlannedStep("adopt_image"), PlannedStep("derive_boot", ("adopt_image",))))
# What makes an image; its id is that of the operation's subject.
IMAGE_MAKERS = (IMPORT_IMAGE, FETCH_IMAGE, PROMOTE_IMAGE, PROMOTE_VOLUME, ADOPT_IMAGE)

FLATTEN_IMAGE = Plan("flatten-image", (PlannedStep("flatten_image"),), undoable=False)
PUBLISH_IMAGE = Plan("publish-image", (PlannedStep("publish_image"),), undoable=False)
PREPARE_DOWNLOAD = Plan("prepare-download", (PlannedStep("prepare_download"),))
DELETE_IMAGE = Plan(
    "delete-image",
    (PlannedStep("delete_image"), PlannedStep("delete_boot", ("delete_image",))),
    undoable=False,
)

SNAPSHOT = Plan("snapshot", (PlannedStep("snapshot_volume"),))
DELETE_SNAPSHOT = Plan("delete-snapshot", (PlannedStep("delete_snapshot"),), undoable=False)

# Withdrawn before it is rolled back: a node that is turned on meanwhile must not read half of each.
ROLL_BACK = Plan(
    "roll-back",
    (
        PlannedStep("require_off"),
        PlannedStep("withdraw_volume", ("require_off",)),
        PlannedStep("roll_back_volume", ("withdraw_volume",)),
        PlannedStep("export_volume", ("roll_back_volume",)),
    ),
)
ROLL_BACK_VOLUME = Plan("roll-back-volume", (PlannedStep("roll_back_volume"),), undoable=False)
FLATTEN = Plan("flatten", (PlannedStep("flatten_volume"),), undoable=False)
DELETE_VOLUME = Plan("delete-volume", (PlannedStep("delete_volume"),), undoable=False)
DIFF = Plan("diff", (PlannedStep("compare"),), undoable=False)
CHECK_STORAGE = Plan(
    "check-storage",
    (PlannedStep("check_storage"), PlannedStep("measure_usage", ("check_storage",))),
    undoable=False,
)
# Asked first: what a switch lists is worth nothing when it would take no change.
CHECK_SWITCH = Plan(
    "check-switch",
    (PlannedStep("ask_switch"), PlannedStep("compare_ports", ("ask_switch",))),
    undoable=False,
)

OPEN_NETWORK = Plan(
    "open-network", (PlannedStep("attach_uplink"), PlannedStep("open_portal", ("attach_uplink",)))
)
CLOSE_NETWORK = Plan(
    "close-network",
    (PlannedStep("close_portal"), PlannedStep("detach_uplink", ("close_portal",))),
    undoable=False,
)

PLANS = {
    plan.kind: plan
    for plan in (
        PROVISION,
        RELEASE,
        DETACH,
        ATTACH,
        ALLOCATE,
        FREE,
        ATTACH_NETWORK,
        DETACH_NETWORK,
        SYNC_NODES,
        REGISTER,
        UNREGISTER,
        POWER_ON,
        POWER_OFF,
        POWER_CYCLE,
        *IMAGE_MAKERS,
        FLATTEN_IMAGE,
        PUBLISH_IMAGE,
        PREPARE_DOWNLOAD,
        DELETE_IMAGE,
        SNAPSHOT,
        DELETE_SNAPSHOT,
        ROLL_BACK,
        ROLL_BACK_VOLUME,
        FLATTEN,
        DELETE_VOLUME,
        DIFF,
        CHECK_STORAGE,
        CHECK_SWITCH,
        OPEN_NETWORK,
        CLOSE_NETWORK,
    )
}
