"""What operations of the service made, and what comes back after its end, is what the sweep removes."""

import subprocess
from pathlib import Path

from bmi.drivers.storage import Ref
from bmi.store import records
from bmi.workflow.sweep import Sweep
from tests.bad_input.conftest import Place


def test_what_was_given_back_and_is_there_again_is_swept(place: Place, tmp_path: Path) -> None:
    """As after a worker that hung, lost its operation to another one, and finished what it was doing."""
    disk = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "16M"], check=True)
    client, storage, database = place.client, place.tools.storage, place.site.database
    Sweep(place.tools).look()  # measures what the images take
    before = place.everything()
    place.succeeds(client.import_image("rocky-9", disk))
    place.succeeds(client.provision_node("n1", image="debian-12", project="red"), "n1")
    place.succeeds(client.create_snapshot("n1", "s1"))
    with database.read() as tx:
        [volume], [snapshot] = records.volumes.list(tx), records.snapshots.list(tx)
        [image] = records.images.list(tx, name="rocky-9")
    Sweep(place.tools).look()
    assert client.get_node("n1")["state"] == "active"
    assert len(storage.list()) == len(before["store"]) + 3, "nothing of a live node is touched"

    place.succeeds(client.release_node("n1"))
    place.succeeds(client.free_node("n1"))
    place.succeeds(client.delete_snapshot("s1", project="red"))
    storage.clone(Ref("image", volume.image_id), volume.id)
    storage.snapshot(volume.id, snapshot.id)
    place.succeeds(client.delete_image("rocky-9"))
    storage.staging_path(image.id).write_bytes(bytes(512))
    storage.commit_image(image.id)
    storage.staging_path(image.id).write_bytes(bytes(512))
    place.tools.boot_dir(image.id).mkdir()
    assert place.everything() != before

    Sweep(place.tools).look()
    assert place.everything() == before
