"""Boot artefacts from disks of every layout that the product promises."""

import dataclasses
import json
import os
import re
from pathlib import Path

import pytest

from bmi.errors import InvalidImageError
from bmi.image.bootable import build_boot, os_name, version_key
from tests.image import disks
from tests.image.disks import KERNEL, Partition

pytestmark = pytest.mark.slow


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """The tree of a root file system, without /boot."""
    tree = tmp_path / "system"
    disks.add_system(tree)
    disks.add_modules(tree)
    return tree


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("label", "kind", "separate_boot"),
    [
        ("gpt", "ext4", False),
        ("gpt", "xfs", True),
        ("gpt", "btrfs", False),
        ("dos", "ext4", True),
        ("dos", "xfs", False),
        ("dos", "btrfs", True),
    ],
)
def test_every_layout_gives_kernel_and_initrd(
    label: str, kind: str, separate_boot: bool, system: Path, work: Path, tmp_path: Path
) -> None:
    partitions = [Partition(kind, system)]
    if separate_boot:
        disks.add_kernel(tmp_path / "boot")
        partitions.insert(0, Partition("ext4", tmp_path / "boot"))
    else:
        disks.add_kernel(system / "boot")
    disk = disks.make_disk(tmp_path / "disk", label, partitions)

    made = build_boot(disk, tmp_path / "out", work_dir=work)

    assert (made.method, made.kernel_version, made.root_fs) == ("kernel", KERNEL, kind)
    assert made.root_spec == f"partition:{len(partitions)}"
    assert made.os_name == os_name(disk) == "Test Linux 1 (first)"
    assert re.fullmatch(r"[0-9a-f-]{36}", made.root_uuid)
    assert (tmp_path / "out/kernel").read_bytes() == disks.KERNEL_BYTES + KERNEL.encode()
    content = disks.read_initramfs(tmp_path / "out/initrd")
    assert (
        f"BMI_ROOT={made.root_spec}\nBMI_ROOT_FLAGS=''\nBMI_ROOT_FS={kind}\n".encode()
        == content["etc/bmi/image.env"]
    )
    assert content[f"lib/modules/{KERNEL}/{kind}.ko"] == disks.module_content(kind)
    assert json.loads(json.dumps(dataclasses.asdict(made))) == dataclasses.asdict(made)
    assert list(work.iterdir()) == []


@pytest.mark.real
def test_root_on_lvm_is_named_by_group_and_volume(system: Path, work: Path, tmp_path: Path) -> None:
    disks.add_kernel(system / "boot")
    disk = disks.make_lvm_disk(tmp_path / "disk", system, group=f"bmi-{os.getpid()}", volume="root_a")

    made = build_boot(disk, tmp_path / "out", work_dir=work)

    assert (made.method, made.root_spec) == ("kernel", f"lvm:bmi-{os.getpid()}/root_a")
    content = disks.read_initramfs(tmp_path / "out/initrd")
    assert "bmi/sbin/lvm" in content
    assert f"lib/modules/{KERNEL}/dm_mod.ko" in content


def test_a_file_system_on_the_bare_disk_is_a_root_too(system: Path, work: Path, tmp_path: Path) -> None:
    disks.add_kernel(system / "boot")
    disks.make_file_system(tmp_path / "disk", "ext4", system, 24 * disks.MIB)
    assert build_boot(tmp_path / "disk", tmp_path / "out", work_dir=work).root_spec == "disk"


def test_a_root_in_a_btrfs_subvolume_is_mounted_by_its_name(system: Path, work: Path, tmp_path: Path) -> None:
    # A directory of that name is all that can be made without mounting; GRUB reads a subvolume alike.
    disks.add_kernel(tmp_path / "top/boot")
    (tmp_path / "top").mkdir(exist_ok=True)
    disks.add_kernel(system / "boot")
    system.rename(tmp_path / "top/@")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("btrfs", tmp_path / "top")])
    made = build_boot(disk, tmp_path / "out", work_dir=work)
    assert (made.root_spec, made.root_flags) == ("partition:1", "subvol=/@")


def test_the_initramfs_holds_closure_firmware_and_programs(system: Path, work: Path, tmp_path: Path) -> None:
    disks.add_kernel(system / "boot")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    build_boot(disk, tmp_path / "out", work_dir=work)
    content = disks.read_initramfs(tmp_path / "out/initrd")

    modules = {name.rpartition("/")[2] for name in content if name.endswith(".ko")}
    wanted = "iscsi_boot_sysfs iscsi_ibft scsi_mod libiscsi iscsi_tcp sd_mod ext4 jbd2 tg3 crc32c_generic"
    assert modules == {f"{name}.ko" for name in wanted.split()}
    for name in ("iscsi_ibft", "libiscsi", "iscsi_tcp"):  # packed as xz, gz and zst in the image
        assert content[f"lib/modules/{KERNEL}/{name}.ko"] == disks.module_content(name)
    assert b"iscsi_tcp.ko: libiscsi.ko scsi_mod.ko\n" in content[f"lib/modules/{KERNEL}/modules.dep"]
    aliases = content[f"lib/modules/{KERNEL}/modules.alias"]
    assert aliases == b"alias pci:v000014E4d* tg3\nalias crypto-crc32c crc32c_generic\n"
    assert content["lib/firmware/tigon/tg3.bin"] == b"firmware of tg3"
    assert {"init", "bin/busybox", "bmi/sbin/@iscsid", "bmi/sbin/iscsiadm", "bmi/report-up"} <= content.keys()
    assert any(re.fullmatch(r"bmi/lib.*/libc\.so\.6", name) for name in content)


def test_the_same_disk_gives_the_same_bytes_and_replaces_what_was_there(
    system: Path, work: Path, tmp_path: Path
) -> None:
    disks.add_kernel(system / "boot", config="CONFIG_RD_GZIP=y\n")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    out = tmp_path / "out"
    first = build_boot(disk, out, work_dir=work)
    initrd = (out / "initrd").read_bytes()
    (out / "stale").touch()

    assert build_boot(disk, out, work_dir=work) == first
    assert (out / "initrd").read_bytes() == initrd
    assert initrd.startswith(b"\x1f\x8b"), "a kernel without zstd gets gzip"
    assert sorted(path.name for path in out.iterdir()) == ["initrd", "kernel"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".boot-")] == []


def test_the_newest_kernel_that_can_boot_from_iscsi_is_taken(
    system: Path, work: Path, tmp_path: Path
) -> None:
    for version in ("6.1.0-9-amd64", KERNEL, "6.12.1-cloud-amd64", "7.0.0-nokernel"):
        disks.add_modules(system, version, without=["iscsi_ibft"] if "cloud" in version else [])
        if "nokernel" not in version:
            disks.add_kernel(system / "boot", version)
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    assert build_boot(disk, tmp_path / "out", work_dir=work).kernel_version == KERNEL


def test_versions_sort_as_people_read_them() -> None:
    versions = [
        "5.14.0-427.el9.x86_64",
        "5.14.0-70.el9.x86_64",
        "6.1.0-10-amd64",
        "6.1.0-9-amd64",
        "6.1.0-rc1",
    ]
    assert sorted(versions, key=version_key) == [
        "5.14.0-70.el9.x86_64",
        "5.14.0-427.el9.x86_64",
        "6.1.0-rc1",
        "6.1.0-9-amd64",
        "6.1.0-10-amd64",
    ]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (
            "boot/grub/grub.cfg",
            "menuentry x {\n  linux /vmlinuz-{v} root=UUID=1 ro quiet console=ttyS0,115200 selinux=0\n}\n",
        ),
        (
            "boot/loader/entries/a.conf",
            "linux /vmlinuz-{v}\noptions root=/dev/x console=ttyS0,115200 selinux=0\n",
        ),
        ("etc/kernel/cmdline", "root=UUID=1 console=ttyS0,115200 selinux=0 ip=dhcp"),
        (
            "etc/default/grub",
            'GRUB_CMDLINE_LINUX_DEFAULT="quiet"\nGRUB_CMDLINE_LINUX="console=ttyS0,115200 selinux=0"\n',
        ),
    ],
)
def test_arguments_come_from_the_images_own_configuration(
    file: str, text: str, system: Path, work: Path, tmp_path: Path
) -> None:
    disks.add_kernel(system / "boot")
    disks.add_file(system, file, text.replace("{v}", KERNEL))
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    made = build_boot(disk, tmp_path / "out", work_dir=work)
    assert made.kernel_args == "console=ttyS0,115200 selinux=0"


def test_arguments_that_mean_something_to_ipxe_are_left_out(system: Path, work: Path, tmp_path: Path) -> None:
    disks.add_kernel(system / "boot")
    disks.add_file(
        system, "etc/kernel/cmdline", "console=${password} console=tty0&&shell init=/bin/sh console=tty0"
    )
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    assert build_boot(disk, tmp_path / "out", work_dir=work).kernel_args == "console=tty0"


def test_a_disk_without_linux_is_started_by_its_own_boot_loader(work: Path, tmp_path: Path) -> None:
    disks.add_file(tmp_path / "other", "COMMAND.COM", "not Linux")
    disk = disks.make_disk(tmp_path / "disk", "dos", [Partition("ext4", tmp_path / "other")])
    made = build_boot(disk, tmp_path / "out", work_dir=work)
    assert made.method == "sanboot"
    assert made.reason == "No Linux root file system was found on the disk (it holds: ext*)."
    assert list((tmp_path / "out").iterdir()) == []


def test_a_root_without_a_fitting_kernel_says_why(system: Path, work: Path, tmp_path: Path) -> None:
    disks.add_kernel(system / "boot")
    disks.add_modules(system, without=["iscsi_tcp", "sd_mod"])
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    made = build_boot(disk, tmp_path / "out", work_dir=work)
    assert made.method == "sanboot"
    assert made.reason == f"The kernel {KERNEL} cannot boot from iSCSI: it lacks iscsi_tcp, sd_mod."


@pytest.mark.parametrize(
    "content", [b"", b"\0" * disks.MIB, b"garbage " * 100_000], ids=["empty", "zeros", "noise"]
)
def test_a_disk_of_garbage_is_no_linux(content: bytes, work: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(content)
    made = build_boot(disk, tmp_path / "out", work_dir=work)
    assert (made.method, "no file system that can be read" in made.reason) == ("sanboot", True)


def test_a_damaged_file_system_is_an_answer_or_a_clear_error(
    system: Path, work: Path, tmp_path: Path
) -> None:
    disks.add_kernel(system / "boot")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    size = disk.stat().st_size
    with disk.open("r+b") as file:
        for offset in range(disks.FIRST_PARTITION_BYTES + 4096, size - disks.MIB, 37 * 4096):
            file.seek(offset)
            file.write(b"\xa5" * 4096)
    try:
        made = build_boot(disk, tmp_path / "out", work_dir=work)
    except InvalidImageError as error:
        assert "image" in error.detail  # noqa: PT017  # either end is right; which one depends on what was hit
    else:
        assert made.method in {"kernel", "sanboot"}
    assert list(work.iterdir()) == []


def test_a_module_that_unpacks_to_nonsense_is_refused(system: Path, work: Path, tmp_path: Path) -> None:
    disks.add_kernel(system / "boot")
    disks.add_file(system, f"lib/modules/{KERNEL}/kernel/drivers/firmware/iscsi_ibft.ko.xz", "not xz")
    disk = disks.make_disk(tmp_path / "disk", "gpt", [Partition("ext4", system)])
    with pytest.raises(InvalidImageError, match="module in the image is damaged"):
        build_boot(disk, tmp_path / "out", work_dir=work)
    assert not (tmp_path / "out").exists()
