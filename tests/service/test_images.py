"""Images: which version a name means and to whom, what they come of, and when they may go."""

from collections.abc import Callable
from typing import Any

import pytest

from bmi.domain.nouns import Actor, Image, ObjectState
from bmi.errors import (
    AlreadyExistsError,
    BmiError,
    BusyError,
    ForbiddenError,
    InUseError,
    InvalidInputError,
    InvalidStateError,
    NotFoundError,
    OverQuotaError,
)
from bmi.service import image_files, image_sources, images, nodes, operations, quotas, snapshots, volumes
from bmi.service.core import OperationView
from bmi.service.image_sources import Source, Told
from bmi.service.images import Changes, Filter
from bmi.store import records
from tests.installation import SITE, Site

FILE = b"disk" * 1024


def make(site: Site, actor: Actor, name: str, source: Source, told: Told | None = None) -> OperationView:
    return image_sources.import_image(site.core, actor, name, source, told or Told())


def titles(site: Site, actor: Actor, wanted: Filter | None = None) -> list[str]:
    found = images.list_images(site.core, actor, wanted)
    return [f"{view.project or 'site'}/{view.image.name}@{view.image.version}" for view in found]


def shown(site: Site, actor: Actor, name: str, project: str | None = None) -> Image:
    return images.get_image(site.core, actor, name, project=project).image


def provision(site: Site, actor: Actor, image: str, node: str = "n1") -> OperationView:
    return nodes.provision_node(site.core, actor, node, nodes.Order(image=image))


# ---- versions ---------------------------------------------------------------------------------------


def test_a_name_means_the_newest_ready_version(site: Site, red: Actor) -> None:
    first, second = site.add_image("os", "red"), site.add_image("os", "red")
    assert shown(site, red, "os").id == second
    assert shown(site, red, "os@1").id == first
    with site.database.write() as tx:
        records.images.update(tx, id=second, values={"state": ObjectState.CREATING})
    assert shown(site, red, "os").id == first
    assert shown(site, red, "os@2").state is ObjectState.CREATING
    for wrong in ("os@3", "os@99"):
        with pytest.raises(NotFoundError, match=wrong):
            shown(site, red, wrong)
    for bad in ("os@", "os@0", "os@01", "os@x", "os@1@2", "@1", "os@-1"):
        with pytest.raises(InvalidInputError):
            shown(site, red, bad)
        with pytest.raises(InvalidInputError):
            provision(site, red, bad)


def test_a_node_boots_the_version_that_was_named(site: Site, red: Actor) -> None:
    first, second = site.add_image("os", "red"), site.add_image("os", "red")
    provision(site, red, "os@1", "n1")
    provision(site, red, "os", "n2")
    volumes = {view.node.name: view.volume for view in nodes.list_nodes(site.core, red)}
    assert [volumes[name].image_id for name in ("n1", "n2")] == [first, second]  # type: ignore[union-attr]


def test_only_what_a_name_means_is_listed_unless_all_is_wanted(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("os", "red")
    site.add_image("os", "red")
    site.add_image("os", "blue")
    assert titles(site, red) == ["site/debian-12@1", "red/os@2"]
    assert titles(site, red, Filter(all_versions=True)) == ["site/debian-12@1", "red/os@1", "red/os@2"]
    assert titles(site, SITE, Filter(name="os")) == ["red/os@2", "blue/os@1"]
    # Of red's image blue may use only the older version.
    images.share_image(site.core, red, "os@1", "blue", shared=True)
    assert titles(site, blue) == ["site/debian-12@1", "red/os@1", "blue/os@1"]


def test_a_version_number_is_never_given_twice(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    for expected in (2, 3):
        made = make(site, red, "os", Source(image="debian-12"))
        assert made.operation.args["image"] == f"os@{expected}"
        site.settle()
    images.delete_image(site.core, red, "os@3")
    site.settle()
    assert make(site, red, "os", Source(image="debian-12")).operation.args["image"] == "os@4"
    site.settle()
    failed = make(site, red, "os", Source(url="https://example.net/x"))
    operations.cancel_operation(site.core, red, failed.operation.id)
    site.settle()
    with pytest.raises(NotFoundError):
        shown(site, red, "os@5")
    assert make(site, red, "os", Source(image="debian-12")).operation.args["image"] == "os@6"


def test_a_new_version_is_for_the_same_people(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("os", "red")
    told = Changes(description="Ours.", labels={"tested": "yes"})
    images.change_image(site.core, red, "os", told)
    images.share_image(site.core, red, "os", "blue", shared=True)
    make(site, red, "os", Source(image="debian-12"))
    site.settle()
    image = shown(site, blue, "os")
    assert (image.version, image.description, image.labels) == (2, "Ours.", {})
    make(site, red, "os", Source(image="debian-12"), Told(description="Newer.", labels={"a": "b"}))
    site.settle()
    image = shown(site, blue, "os")
    assert (image.version, image.description, image.labels) == (3, "Newer.", {"a": "b"})


# ---- describing, renaming, sharing, moving ----------------------------------------------------------


def test_an_image_is_described_and_found_by_its_labels(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    site.add_image("other", "red")
    changed = Changes(description="Ours.", labels={"role": "web", "tier": "1"})
    images.change_image(site.core, red, "os", changed)
    images.change_image(site.core, red, "other", Changes(labels={"role": "web"}))
    assert titles(site, red, Filter(labels={"role": "web"})) == ["red/os@1", "red/other@1"]
    assert titles(site, red, Filter(labels={"role": "web", "tier": "1"})) == ["red/os@1"]
    image = images.change_image(site.core, red, "os", Changes(labels={"tier": None, "role": "db"})).image
    assert (image.labels, image.description) == ({"role": "db"}, "Ours.")
    for bad in ({"A b": "c"}, {"a": "x" * 201}, {"a": "b\n"}, {f"k{i}": "v" for i in range(65)}):
        with pytest.raises(InvalidInputError, match="labels"):
            images.change_image(site.core, red, "os", Changes(labels=bad))


def test_a_renamed_image_takes_all_its_versions_along(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    site.add_image("os", "red")
    site.add_image("taken", "red")
    renamed = images.change_image(site.core, red, "os", Changes(name="linux")).image
    assert (renamed.name, renamed.version) == ("linux", 2)
    assert shown(site, red, "linux@1").version == 1
    with pytest.raises(NotFoundError):
        shown(site, red, "os")
    with pytest.raises(AlreadyExistsError):
        images.change_image(site.core, red, "linux", Changes(name="taken"))
    with pytest.raises(InvalidInputError, match="one version alone"):
        images.change_image(site.core, red, "linux@1", Changes(name="other"))
    with pytest.raises(InvalidInputError):
        images.change_image(site.core, red, "linux", Changes(name="Not Good"))


def test_a_shared_image_is_for_those_projects_only(site: Site, red: Actor, blue: Actor) -> None:
    site.project("green")
    green = site.actor("green-token", "green")
    image_id = site.add_image("os", "red")
    view = images.share_image(site.core, red, "os", "blue", shared=True)
    assert view.shared_with == ("blue",)
    seen = images.get_image(site.core, blue, "os")
    assert (seen.image.id, seen.shared_with, seen.manages) == (image_id, (), False)
    for act in (
        lambda: shown(site, green, "os"),
        lambda: provision(site, green, "os"),
        lambda: make(site, green, "mine", Source(image="os")),
    ):
        with pytest.raises(NotFoundError):
            act()
    for change in (
        lambda: images.change_image(site.core, blue, "os", Changes(description="x")),
        lambda: images.delete_image(site.core, blue, "os"),
        lambda: images.share_image(site.core, blue, "os", "green", shared=True),
        lambda: images.flatten_image(site.core, blue, "os"),
    ):
        with pytest.raises(ForbiddenError):
            change()


def test_a_project_that_lost_the_share_keeps_what_runs(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("os", "red")
    images.share_image(site.core, red, "os", "blue", shared=True)
    site.provision("n1", "blue", "os")
    view = images.share_image(site.core, red, "os", "blue", shared=False)
    assert view.shared_with == ()
    with pytest.raises(NotFoundError):
        provision(site, blue, "os", "n2")
    assert nodes.get_node(site.core, blue, "n1").volume is not None
    with pytest.raises(InUseError, match="1 of other projects"):
        images.delete_image(site.core, red, "os")


def test_who_an_image_is_shared_with_must_be_somebody_else(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    with pytest.raises(NotFoundError):
        images.share_image(site.core, red, "os", "green", shared=True)
    with pytest.raises(InvalidInputError):
        images.share_image(site.core, red, "os", "red", shared=True)


def test_two_shared_images_of_one_name_are_told_apart_by_dropping_one(
    site: Site, red: Actor, blue: Actor
) -> None:
    site.project("green")
    for owner in ("red", "green"):
        site.add_image("os", owner)
        images.share_image(site.core, SITE, "os", "blue", shared=True, project=owner)
    with pytest.raises(InvalidInputError, match="several projects"):
        shown(site, blue, "os")
    with pytest.raises(InvalidInputError, match=r"several projects \(green, red\)"):
        images.share_image(site.core, blue, "os", "blue", shared=False)
    images.share_image(site.core, blue, "os", "blue", shared=False, of="green")
    assert images.get_image(site.core, blue, "os").project == "red"
    with pytest.raises(NotFoundError):
        images.share_image(site.core, blue, "os", "blue", shared=False, of="green")
    own = site.add_image("os", "blue")
    assert shown(site, blue, "os").id == own
    images.share_image(site.core, blue, "os", "blue", shared=False)
    assert images.get_image(site.core, SITE, "os", project="red").shared_with == ()


def test_a_shared_image_takes_nobody_the_public_one(site: Site, red: Actor, blue: Actor) -> None:
    trojan = site.add_image("debian-12", "red")
    images.share_image(site.core, red, "debian-12", "blue", shared=True)
    assert shown(site, blue, "debian-12").id != trojan
    assert shown(site, blue, "debian-12").public


def test_who_may_make_an_image_public(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("os", "red")
    with pytest.raises(ForbiddenError):
        images.change_image(site.core, red, "os", Changes(public=True))
    images.change_image(site.core, SITE, "os", Changes(public=True))
    assert shown(site, blue, "os").public
    images.change_image(site.core, SITE, "os", Changes(public=False))
    with pytest.raises(NotFoundError):
        shown(site, blue, "os")
    with pytest.raises(InvalidStateError, match="is the site's"):
        images.change_image(site.core, SITE, "debian-12", Changes(public=False))


def test_an_image_moves_with_all_its_versions(site: Site, red: Actor, blue: Actor) -> None:
    first = site.add_image("os", "red")
    second = site.add_image("os", "red")
    site.provision("n1", "red", "os")
    with pytest.raises(ForbiddenError):
        images.move_image(site.core, red, "os", "blue")
    view = images.move_image(site.core, SITE, "os", "blue")
    assert (view.project, view.image.public) == ("blue", False)
    assert [shown(site, blue, f"os@{n}").id for n in (1, 2)] == [first, second]
    with pytest.raises(NotFoundError):
        shown(site, red, "os")
    assert images.move_image(site.core, SITE, "os", None).image.public
    assert not images.move_image(site.core, SITE, "os", "red").image.public
    site.add_image("os", "blue")
    for to, error in (("blue", AlreadyExistsError), ("red", InvalidInputError), ("green", NotFoundError)):
        with pytest.raises(error):
            images.move_image(site.core, SITE, "os", to, project="red")
    with pytest.raises(InvalidInputError):
        images.move_image(site.core, SITE, "os@1", "blue", project="red")


# ---- deleting ---------------------------------------------------------------------------------------


def test_of_several_versions_one_is_named_or_all(site: Site, red: Actor) -> None:
    for _ in range(3):
        site.add_image("os", "red")
    with pytest.raises(InvalidStateError, match="has versions 1, 2, 3"):
        images.delete_image(site.core, red, "os")
    images.delete_image(site.core, red, "os@2")
    site.settle()
    assert titles(site, red, Filter(all_versions=True, name="os")) == ["red/os@1", "red/os@3"]
    with pytest.raises(InvalidInputError):
        images.delete_image(site.core, red, "os@1", all_versions=True)
    images.delete_image(site.core, red, "os", all_versions=True)
    site.settle()
    assert titles(site, red, Filter(all_versions=True, name="os")) == []
    assert [stored.ref.kind for stored in site.fakes["storage"].list()] == ["image"]


def test_a_protected_version_is_not_deleted(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    site.add_image("os", "red")
    images.change_image(site.core, red, "os@1", Changes(protected=True))
    for name, every in (("os@1", False), ("os", True)):
        with pytest.raises(InvalidStateError, match=r"'os@1' is protected"):
            images.delete_image(site.core, red, name, all_versions=every)
    images.change_image(site.core, red, "os@1", Changes(protected=False))
    images.delete_image(site.core, red, "os", all_versions=True)


def test_a_deletion_that_fails_is_retried(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    site.add_image("os", "red")
    site.fakes["storage"].world.set_fault("delete", error="Not now.", retryable=False)
    made = images.delete_image(site.core, red, "os", all_versions=True)
    site.settle()
    assert shown(site, red, "os").state is ObjectState.DELETING
    with pytest.raises(InvalidStateError):
        provision(site, red, "os")
    site.fakes["storage"].world.set_fault("delete")
    operations.retry_operation(site.core, red, made.operation.id)
    site.settle()
    with pytest.raises(NotFoundError):
        shown(site, red, "os")


def test_what_depends_on_an_image_is_listed(site: Site, red: Actor) -> None:
    site.add_image("os", "red")
    site.provision("n1", "red", "os")
    snapshots.create_snapshot(site.core, red, "n1", "s")
    site.settle()
    make(site, red, "copy", Source(image="os"))
    site.settle()
    with pytest.raises(InUseError) as caught:
        images.delete_image(site.core, red, "os")
    assert caught.value.facts["users"] == ["image copy@1", "node n1", "snapshot s"]
    images.flatten_image(site.core, red, "copy")
    site.settle()
    with pytest.raises(InUseError) as caught:
        images.delete_image(site.core, red, "os")
    assert caught.value.facts["users"] == ["node n1", "snapshot s"]


def test_an_image_stays_while_it_is_written_to_a_file(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("os", "red")
    images.share_image(site.core, red, "os", "blue", shared=True)
    own = image_files.prepare_download(site.core, red, "os", "raw").operation
    image_files.prepare_download(site.core, blue, "os", "raw")
    with pytest.raises(InUseError) as caught:
        images.delete_image(site.core, red, "os")
    assert caught.value.facts["users"] == [f"operation {own.id} (prepare-download)", "1 of other projects"]
    site.settle()
    images.delete_image(site.core, red, "os")


# ---- where images come from -------------------------------------------------------------------------


def test_a_copy_is_the_same_disk_and_boots_alike(site: Site, red: Actor, blue: Actor) -> None:
    image_id = site.add_image("os", "red")
    boot = {"method": "kernel", "kernel_version": "6.1", "os_name": "Debian"}
    with site.database.write() as tx:
        records.images.update(tx, id=image_id, values={"boot": boot})
    artefacts = site.directory / "boot" / image_id
    artefacts.mkdir(parents=True)
    (artefacts / "kernel").write_bytes(b"kernel")
    images.share_image(site.core, red, "os", "blue", shared=True)
    made = make(site, blue, "mine", Source(image="os@1"))
    site.settle()
    assert site.operation(made.operation.id).state == "succeeded"
    image = shown(site, blue, "mine")
    assert (image.state, image.size_bytes, image.boot) == (ObjectState.READY, 4096, boot)
    assert (image.os_name, image.created_by) == ("Debian", "blue-token")
    assert image.origin == {"kind": "image", "name": "os@1", "id": image_id, "depends": True}
    assert (site.directory / "boot" / image.id / "kernel").read_bytes() == b"kernel"
    images.share_image(site.core, red, "os", "blue", shared=False)
    site.provision("n1", "blue", "mine")


def test_an_administrator_copies_between_projects(site: Site, red: Actor, blue: Actor) -> None:
    site.add_image("os", "red")
    site.add_image("os", "blue")
    make(site, SITE, "from-red", Source(image="os", project="red"), Told(project="blue"))
    site.settle()
    assert shown(site, blue, "from-red").origin["name"] == "os@1"  # type: ignore[index]
    with pytest.raises(ForbiddenError):
        make(site, red, "from-blue", Source(image="os", project="blue"))


def frozen(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    snapshots.create_snapshot(site.core, red, "n1", "s")
    site.settle()


def test_a_snapshot_becomes_an_image_while_its_volume_lives_on(site: Site, red: Actor) -> None:
    frozen(site, red)
    make(site, red, "tuned", Source(snapshot="s"))
    with pytest.raises(InUseError):
        snapshots.delete_snapshot(site.core, red, "s")
    site.settle()
    image = shown(site, red, "tuned")
    assert image.state is ObjectState.READY
    # Made independent in the background, by an operation of its own.
    assert image.origin is not None
    assert (image.origin["kind"], image.origin["name"], "depends" in image.origin) == ("snapshot", "s", False)
    kinds = [view.operation.kind for view in operations.list_operations(site.core, red, subject="tuned")]
    assert kinds == ["flatten-image", "promote-image"]
    snapshots.delete_snapshot(site.core, red, "s")
    site.settle()
    provision(site, red, "tuned", "n2")


def test_a_flatten_that_fails_leaves_an_image_that_works(site: Site, red: Actor) -> None:
    frozen(site, red)
    site.fakes["storage"].world.set_fault("flatten", error="Not now.", retryable=False)
    make(site, red, "tuned", Source(snapshot="s"))
    site.settle()
    assert shown(site, red, "tuned").state is ObjectState.READY
    with pytest.raises(InUseError, match="image tuned"):
        snapshots.delete_snapshot(site.core, red, "s")
    site.fakes["storage"].world.set_fault("flatten")
    images.flatten_image(site.core, red, "tuned")
    site.settle()
    snapshots.delete_snapshot(site.core, red, "s")


def test_a_volume_becomes_an_image_through_a_snapshot_that_goes(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    make(site, red, "tuned", Source(volume="n1"))
    site.settle()
    image = shown(site, red, "tuned")
    assert image.state is ObjectState.READY
    assert image.origin is not None
    assert (image.origin["kind"], image.origin["name"]) == ("volume", "n1")
    assert snapshots.list_snapshots(site.core, red) == []
    assert sorted(stored.ref.kind for stored in site.fakes["storage"].list()) == ["image", "image", "volume"]


def test_a_volume_stays_as_it_is_until_it_is_frozen_for_its_image(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    snapshots.create_snapshot(site.core, red, "n1", "s")
    site.settle()
    make(site, red, "from-node", Source(volume="n1"))
    with pytest.raises(BusyError, match="frozen for an image"):
        nodes.release_node(site.core, red, "n1")
    with pytest.raises(BusyError, match="frozen for an image"):
        volumes.roll_back_node(site.core, red, "n1", "s")
    nodes.release_node(site.core, red, "n1", keep_volume=True)
    site.settle()
    make(site, red, "from-volume", Source(volume="n1"))
    with pytest.raises(BusyError, match="frozen for an image"):
        volumes.delete_volume(site.core, red, "n1")
    with pytest.raises(BusyError, match="frozen for an image"):
        volumes.roll_back_volume(site.core, red, "n1", "s")
    site.settle()
    assert shown(site, red, "from-node").state == shown(site, red, "from-volume").state == ObjectState.READY
    volumes.delete_volume(site.core, red, "n1")


def test_a_volume_that_cannot_be_promoted_leaves_nothing(site: Site, red: Actor) -> None:
    site.provision("n1", "red")
    before = {stored.ref for stored in site.fakes["storage"].list()}
    site.fakes["storage"].world.set_fault("promote", error="Not now.", retryable=False)
    made = make(site, red, "tuned", Source(volume="n1"))
    site.settle()
    assert site.operation(made.operation.id).state == "failed"
    assert {stored.ref for stored in site.fakes["storage"].list()} == before
    assert snapshots.list_snapshots(site.core, red) == []
    with pytest.raises(NotFoundError):
        shown(site, red, "tuned")


def test_an_image_of_the_store_is_adopted_and_one_of_ours_published(site: Site, red: Actor) -> None:
    storage = site.fakes["storage"]
    storage._other("pool/theirs").write_bytes(FILE)
    make(site, SITE, "adopted", Source(rbd="pool/theirs"))
    site.settle()
    image = shown(site, red, "adopted")
    assert (image.state, image.size_bytes) == (ObjectState.READY, len(FILE))
    assert image.origin == {"kind": "rbd", "name": "pool/theirs", "depends": True}
    made = image_files.publish_image(site.core, SITE, "adopted", "pool/ours")
    site.settle()
    assert site.operation(made.operation.id).state == "succeeded"
    assert storage._other("pool/ours").read_bytes() == FILE
    with pytest.raises(ForbiddenError):
        make(site, red, "mine", Source(rbd="pool/theirs"))
    with pytest.raises(ForbiddenError):
        image_files.publish_image(site.core, red, "adopted", "pool/mine")
    failed = make(site, SITE, "missing", Source(rbd="pool/missing"))
    site.settle()
    assert site.operation(failed.operation.id).state == "failed"


@pytest.mark.parametrize(
    ("source", "error", "word"),
    [
        (Source(), InvalidInputError, "exactly one"),
        (Source(url="https://a.example/x", image="debian-12"), InvalidInputError, "exactly one"),
        (Source(url="http://a.example/x"), InvalidInputError, "https"),
        (Source(url="file:///etc/passwd"), InvalidInputError, "https"),
        (Source(url="https:///x"), InvalidInputError, "https"),
        (Source(url="https://user:pass@a.example/x"), InvalidInputError, "credentials"),
        (Source(url="https://a.example/" + "x" * 4000), InvalidInputError, "https"),
        (Source(url="https://a.example/x", sha256="abc"), InvalidInputError, "sha256"),
        (Source(image="debian-12", sha256="0" * 64), InvalidInputError, "sha256"),
        (Source(image="missing"), NotFoundError, "missing"),
        (Source(image="debian-12@2"), NotFoundError, "debian-12@2"),
        (Source(snapshot="missing"), NotFoundError, "missing"),
        (Source(volume="missing"), NotFoundError, "missing"),
        (Source(upload="missing"), InvalidInputError, "no upload"),
    ],
)
def test_a_source_that_is_none(
    site: Site, red: Actor, source: Source, error: type[BmiError], word: str
) -> None:
    before = site.everything()
    with pytest.raises(error, match=word):
        make(site, red, "new", source)
    assert site.everything() == before


@pytest.mark.parametrize("name", ["new@2", "New", "", "a/b"])
def test_a_new_image_has_a_plain_name(site: Site, red: Actor, name: str) -> None:
    with pytest.raises(InvalidInputError):
        make(site, red, name, Source(image="debian-12"))


def test_a_url_is_kept_without_what_may_be_a_key(site: Site, red: Actor) -> None:
    url = "https://store.example/disk.qcow2?signature=s3cret"
    view = make(site, red, "new", Source(url=url, sha256="AB" * 32))
    assert "s3cret" not in str(site.everything())
    assert view.operation.args["url"] == "https://store.example/disk.qcow2"
    assert site.core.vault.open(view.operation.args["sealed_url"]) == url
    image = shown(site, red, "new")
    assert (image.origin, image.sha256) == (
        {"kind": "url", "name": "https://store.example/disk.qcow2"},
        "ab" * 32,
    )


Act = Callable[[Site, Actor], Any]


@pytest.mark.parametrize(
    "act",
    [
        lambda site, red: make(site, red, "mine", Source(image="debian-12")),
        lambda site, red: images.move_image(site.core, SITE, "debian-12", "red"),
        lambda site, red: image_sources.check_import(site.core, red, "new", Told(), size_bytes=1),
    ],
)
def test_a_quota_holds_for_every_way_to_an_image(site: Site, red: Actor, act: Act) -> None:
    quotas.set_quota(site.core, SITE, "red", {"image_bytes": 0})
    with pytest.raises(OverQuotaError):
        act(site, red)
