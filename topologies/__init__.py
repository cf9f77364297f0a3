"""Networks of hosts, switches and links: plain layouts, and the same as Mininet `Topo` classes; scenario files beside them."""
