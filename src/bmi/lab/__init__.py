"""Virtual bare metal: QEMU nodes with Redfish BMCs behind a real Open vSwitch, see `bmi.lab.lab.Lab`."""
