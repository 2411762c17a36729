"""Every bad input and failure that BMI promises to end in a clear problem, with nothing half done.

Each goes from a client through API, service, engine and drivers. Where each is shown:

| case | where |
|---|---|
| unknown image | tests/api/test_nodes.py::test_a_bad_order_is_refused |
| busy node | tests/api/test_nodes.py::test_a_busy_node_says_what_it_is_busy_with, tests/service/test_race.py |
| malformed or taken MAC | tests/api/test_nodes.py::test_a_bad_registration_is_refused |
| MAC that is not the node's | test_node.py::test_a_node_with_another_mac_is_never_seen |
| no image, truncated qcow2, backing file | test_image.py::test_a_file_that_is_no_image |
| upload that breaks off | tests/api/test_uploads.py::test_an_upload_that_breaks_off_leaves_nothing |
| full disk | test_space.py, and tests/drivers/storage/test_local.py for what the store itself does |
| BMC that refuses, hangs, or is something else | test_bmc.py, and tests/drivers/bmc/test_redfish.py |
| no free address | tests/api/test_nodes.py::test_no_free_address |
| no free VLAN, no free address range | test_network.py::test_a_pool_that_is_used_up |
| port 3260 taken | test_network.py::test_port_3260_taken |
| port of the API taken, wrong configuration | tests/test_wiring.py |
| kill -9 | tests/workflow/test_kill.py, tests/workflow/test_sweep.py, test_leftovers.py |
"""
