"""The columns of a run folder's tables, with units in their names: the one list that writers, readers and docs share."""

from __future__ import annotations

INFERENCES: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "device": "host that made the request",
    "request": "number of the request on its device, from 0; warm-up requests are counted by themselves",
    "warmup": "true for a warm-up request: it is recorded, and left out of all statistics",
    "epoch": "plan that the request was carried out with (see plans.jsonl); unique within the run",
    "input": "seed of the input image",
    "due_s": "when the request was due, in scenario seconds since the replay began (warm-up: since the session began)",
    "submitted_s": "when the device started it",
    "latency_s": "from then until the device had the last part of the answer; empty for a failed request",
    "queue_s": "waiting for busy hosts, summed over steps and tiles",
    "compute_device_s": "time in which the device computed for this request",
    "compute_edge_s": "time in which at least one edge host did",
    "compute_cloud_s": "time in which the cloud did",
    "transfer_access_s": "time in which tensors were on their way from the device to the edge",
    "transfer_lan_s": "time in which tiles were on their way between edge hosts",
    "transfer_backbone_s": "time in which tensors were on their way to the cloud",
    "transfer_return_s": "time in which answers, and tensors that come back, were on their way to the device",
    "access_bytes": "application bytes (message prefix, header and tensors) from the device to the edge",
    "lan_bytes": "application bytes between edge hosts",
    "backbone_bytes": "application bytes to the cloud over backbone or cellular links",
    "weights_bytes": "application bytes of weights that servers had been sent by then (planners that upload the model)",
    "overrun_s": "by how much real computation outlasted the modelled time, summed",
    "tiles": "how many tiles each edge host computed (`e1:3 e2:5`), those of every stack together; empty where nothing was tiled",
    "correct": "true when the answer is the whole model's: bit-equal, or for tiles within 1e-5 of the largest magnitude and the "
    "same five best classes; empty where only sizes travel",
    "max_rel_error": "largest absolute difference from the whole model's answer over its largest magnitude",
    "error": "name of the error for a failed request, else empty",
    "error_text": "what the error says",
}

LINKS: dict[str, str] = {
    "model": "name of the DNN",
    "planner": "name of the planner",
    "link": "name of the link",
    "direction": "up (away from the devices) or down",
    "kind": "state: from `at_s` on the link had this state; total: counters of the whole session, warm-up included (of what "
    "there was of one cut short)",
    "at_s": "scenario seconds since the replay began",
    "late_s": "how much later than due the state was in force",
    "rate_bps": "rate in bit/s; 0 is an outage",
    "delay_s": "one-way delay",
    "loss": "loss probability",
    "wire_bytes": "bytes of frames that the backend counted on the link",
    "packets": "frames counted",
    "drops": "frames dropped",
    "messages": "application messages that crossed the link, by the receivers' reports",
    "message_bytes": "their bytes: prefix, header, tensors",
    "weights_bytes": "those of weights among them (planners that upload the model)",
    "framed_bytes": "all of them with framing: 66 bytes for every 1448 begun, message by message",
}
