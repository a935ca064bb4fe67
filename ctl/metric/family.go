package metric

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// family is all series of one name.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

func counter(name, help string, labels ...string) family {
	return newFamily(prometheus.CounterValue, name+"_total", help, labels)
}

func gauge(name, help string, labels ...string) family {
	return newFamily(prometheus.GaugeValue, name, help, labels)
}

func newFamily(kind prometheus.ValueType, name, help string, labels []string) family {
	return family{prometheus.NewDesc("gardu_"+name, help, labels, nil), kind}
}

// Of the whole.
var (
	buildInfo  = gauge("build_info", "1, of this version of gardu.", "version")
	revision   = gauge("config_revision", "Number of the configuration in force.")
	generation = gauge("config_generation", "Number of the tables in force; grows with set files that are read again, too.")
	appliedAt  = gauge("config_applied_timestamp_seconds", "When the configuration in force was applied.")
	warnings   = gauge("warnings", "Sentences that gardu status warns with.")

	packets = counter("packets", "Wire packets, by what became of them and why.", "verdict", "reason")
	bytes   = counter("bytes", "Bytes of frames, by what became of them and why.", "verdict", "reason")

	reached = counter("filter_reached_packets", "Received packets that reached the filter.")
	decided = counter("filter_decided_packets", "Received packets by what in the filter decided; all together are those that reached it.", "by")

	entries  = gauge("table_entries", "Entries in use of a table.", "table")
	capacity = gauge("table_capacity", "Entries that a table has room for.", "table")
)

// Of interfaces.
var (
	attached  = gauge("interface_attached", "1 if gardu is attached to the interface.", "interface")
	ifaceInfo = gauge("interface_info", "1, of how gardu is attached to the interface.", "interface", "path", "egress")

	receivedPackets   = counter("interface_received_packets", "Wire packets received by the interface.", "interface")
	receivedBytes     = counter("interface_received_bytes", "Bytes of frames received by the interface.", "interface")
	ifaceDropped      = counter("interface_dropped_packets", "Packets received by the interface that were dropped or rejected.", "interface")
	ifaceDroppedBytes = counter("interface_dropped_bytes", "Bytes of frames received by the interface that were dropped or rejected.", "interface")
	sentPackets       = counter("interface_sent_packets", "Wire packets sent out of the interface by gardu, and where it is at tc egress by the kernel.", "interface")
	sentBytes         = counter("interface_sent_bytes", "Bytes of frames sent out of the interface by gardu, and where it is at tc egress by the kernel.", "interface")
	sentDropped       = counter("interface_sent_dropped_packets", "Packets that the kernel was to send out of the interface, and rules dropped.", "interface")
	sentDroppedBytes  = counter("interface_sent_dropped_bytes", "Bytes of frames that the kernel was to send out of the interface, and rules dropped.", "interface")

	redirected = counter("exit_redirected_packets", "Packets that rules sent out of the interface.", "interface")
	mirrored   = counter("exit_mirrored_packets", "Packets of which rules sent a copy out of the interface.", "interface")
	unmirrored = counter("exit_failed_packets", "Copies for the interface that could not be made.", "interface")
	lost       = counter("lost_packets", "Packets that the kernel lost after XDP sent them out of the interface.", "interface", "why")
)

// Of flow accounting and what is beside it.
var (
	flowSample        = gauge("flow_sample", "Of so many packets one is counted in what is said of flows; 1: every one.")
	flowRecords       = gauge("flow_records", "Records in use in the flow table, one a direction and CPU.")
	flowSpilled       = gauge("flow_spilled_records", "Records in the LRU map behind the flow table.")
	flowsCreated      = counter("flow_created_records", "Records ever made.")
	accounted         = counter("flow_accounted_packets", "Packets that reached flow accounting; see gardu_flow_sample.")
	accountedBytes    = counter("flow_accounted_bytes", "IP bytes that reached flow accounting; see gardu_flow_sample.")
	unattributed      = counter("flow_unattributed_packets", "Accounted packets that belong to no record; see gardu_flow_sample.")
	unattributedBytes = counter("flow_unattributed_bytes", "Accounted IP bytes that belong to no record; see gardu_flow_sample.")
	evicted           = counter("flow_evicted_packets", "Packets of one-packet flows whose record gave way to another flow's; see gardu_flow_sample.")
	refused           = counter("flow_refused_packets", "Packets of flows that found no room for a record; see gardu_flow_sample.")

	flowReports    = counter("flow_reports", "Reports of what flows did.")
	reportsPackets = counter("flow_reported_packets", "Packets of the reports; see gardu_flow_sample.")
	reportsBytes   = counter("flow_reported_bytes", "IP bytes of the reports; see gardu_flow_sample.")
	reportsPending = gauge("flow_unreported_packets", "Accounted packets that are not reported yet; see gardu_flow_sample.")
	reportsMissed  = counter("flow_missed_packets", "Accounted packets that never will be reported: of no flow, or of one that gave way before; see gardu_flow_sample.")
	reportsNoRoom  = counter("flow_unreportable_flows", "Flows that can't be reported, for want of room to note what was.")

	droppedRecords           = gauge("dropped_flow_records", "Records in use in the table of dropped flows.")
	droppedCapacity          = gauge("dropped_flow_capacity", "Records that the table of dropped flows has room for; what was dropped least gives way.")
	droppedPackets           = counter("dropped_flow_packets", "Dropped and rejected packets that were accounted; see gardu_flow_sample.")
	droppedBytes             = counter("dropped_flow_bytes", "IP bytes of dropped and rejected packets that were accounted; see gardu_flow_sample.")
	droppedUnattributed      = counter("dropped_flow_unattributed_packets", "Dropped packets that belong to no record; see gardu_flow_sample.")
	droppedUnattributedBytes = counter("dropped_flow_unattributed_bytes", "IP bytes of dropped packets that belong to no record; see gardu_flow_sample.")

	historySize    = gauge("history_size_bytes", "Size of the history's files.")
	historyMax     = gauge("history_max_size_bytes", "Size that the history's files may have.")
	historyPackets = counter("history_written_packets", "Packets of the reports that are in the history; see gardu_flow_sample.")
	historyPending = gauge("history_pending_packets", "Packets of the reports that are about to be written to the history; see gardu_flow_sample.")
	historyLost    = counter("history_lost_packets", "Packets of the reports that the history could not keep; see gardu_flow_sample.")

	sinkFailing     = gauge("flow_sink_failing", "1 if something is wrong with a sink.", "sink")
	sinkReports     = counter("flow_sink_reports", "Reports of flows that a sink took: an exporter, the history, metrics.", "sink")
	sinkPackets     = counter("flow_sink_packets", "Packets of the reports that a sink took; see gardu_flow_sample.", "sink")
	sinkWaiting     = gauge("flow_sink_waiting_reports", "Reports that wait for a sink.", "sink")
	sinkLostReports = counter("flow_sink_lost_reports", "Reports that a sink was too slow for.", "sink")
	sinkLostPackets = counter("flow_sink_lost_packets", "Packets of the reports that a sink was too slow for; see gardu_flow_sample.", "sink")
	sinkLostBytes   = counter("flow_sink_lost_bytes", "IP bytes of the reports that a sink was too slow for; see gardu_flow_sample.", "sink")

	statesCreated = counter("state_created_connections", "Connections that state was kept of.")
	statesEvicted = counter("state_evicted_connections", "Unconfirmed connections whose state gave way to another's.")
	statesRefused = counter("state_refused_packets", "Packets whose connection found no room: what answers them counts as new.")

	eventsSent    = counter("events_sent", "Packets that rules made events of.")
	eventsLost    = counter("events_lost", "Packets that would have become events, but the ring was full.")
	eventsUnnoted = counter("events_unnoted", "Notes of further rules on a packet that four rules had noted.")

	captureReaders  = gauge("captures", "Captures under way.")
	captureCaptured = counter("capture_packets", "Packets that captures told of.")
	captureLost     = counter("capture_lost_packets", "Packets for captures that the buffer had no room for, or that were more than a CPU tells of in a second.")
	captureMissed   = counter("capture_missed_packets", "Packets that the clients of captures were too slow for.")

	limitsShared    = counter("limit_shared_packets", "Packets that took tokens of another bucket, for want of a free one.")
	limitsContended = counter("limit_contended_packets", "Packets found over a limit because all CPUs took tokens of one bucket at once.")
)

// Of what has a name in the configuration.
var (
	rulePackets = counter("rule_packets", "Packets that a rule matched.", "rule")
	ruleBytes   = counter("rule_bytes", "Bytes of the packets that a rule matched.", "rule")
	ruleDecided = counter("rule_decided_packets", "Packets whose verdict a rule decided.", "rule")
	ruleShadow  = counter("rule_shadow_packets", "Packets that a shadow rule would have decided.", "rule")

	setPackets = counter("set_packets", "Packets that a rule matched for being in a set, or filter.allow passed.", "set")
	setBytes   = counter("set_bytes", "Bytes of the packets that a rule matched for being in a set, or filter.allow passed.", "set")
	setEntries = gauge("set_entries", "Entries of a set, after duplicates, nested and adjacent ones are merged.", "set", "kind")
	setKept    = gauge("set_kept", "1 if a set's file was not taken, and what it held before is in force.", "set")
	setLoaded  = gauge("set_loaded_timestamp_seconds", "When the entries in force were read.", "set")

	servicePackets    = counter("service_packets", "Packets sent to backends of a service.", "service")
	serviceBytes      = counter("service_bytes", "Bytes sent to backends of a service.", "service")
	serviceFlows      = counter("service_flows", "Flows that were assigned to backends of a service.", "service")
	serviceBackends   = gauge("service_backends", "Backends of a service.", "service")
	serviceBackendsUp = gauge("service_backends_up", "Backends of a service that are not down.", "service")

	backendPackets = counter("backend_packets", "Packets sent to a backend.", "service", "backend")
	backendBytes   = counter("backend_bytes", "Bytes sent to a backend.", "service", "backend")
	backendFlows   = counter("backend_flows", "Flows that were assigned to a backend.", "service", "backend")
	backendQUIC    = counter("backend_quic_packets", "Packets that were sent to a backend because their QUIC connection ID names it.", "service", "backend")
	backendUp      = gauge("backend_up", "1 if a backend is not down.", "service", "backend")
	backendHop     = gauge("backend_next_hop_resolved", "1 if the way to a backend is known.", "service", "backend")
	backendWeight  = gauge("backend_weight", "Share of new flows, relative to the other backends of the service.", "service", "backend")
)

// scrape takes the values of one scrape.
type scrape struct{ ch chan<- prometheus.Metric }

// put adds a series. Labels are made valid UTF-8: the name of an interface may be anything.
func (s scrape) put(f family, value float64, labels ...string) {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD")
	}
	s.ch <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

// count adds a series of a counter.
func (s scrape) count(f family, value uint64, labels ...string) { s.put(f, float64(value), labels...) }

// tell adds a series that is 1 or 0.
func (s scrape) tell(f family, is bool, labels ...string) {
	value := 0.0
	if is {
		value = 1
	}
	s.put(f, value, labels...)
}
