"""A Ray cluster of two nodes on this machine; prints its address, and ends with its stdin."""

import sys

from ray.cluster_utils import Cluster

HEAD = "127.0.0.2"  # loopback too, but Ray takes 127.0.0.1 for this machine's outer address


def main() -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "node_ip_address": HEAD, "include_dashboard": False},
    )
    cluster.add_node(num_cpus=1, node_ip_address="127.0.0.3")
    cluster.wait_for_nodes(60)
    print(cluster.address, flush=True)
    sys.stdin.read()
    cluster.shutdown()


if __name__ == "__main__":
    main()
