"""What planners are told: seconds of vertices on tiers and hosts, and the state of links."""
