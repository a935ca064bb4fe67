package daemon

import (
	"fmt"
	"net/netip"
	"strings"

	"gardu/ctl/flow"
	"gardu/ctl/flow/export"
	"gardu/ctl/flow/export/kafka"
	"gardu/ctl/model"
)

// exportWishes are the sinks for `flows.export`.
func exportWishes(snapshot *model.Snapshot) (wishes []sinkWish) {
	for _, e := range snapshot.Flows.Export {
		e.Pos = model.Position{}
		wish := sinkWish{made: fmt.Sprintf("%+v", e)}
		switch {
		case e.IPFIX != "":
			wish.name, wish.open = "ipfix "+e.IPFIX, func() (sink, error) {
				return collectorSink{export.NewCollector(export.CollectorOptions{
					Address: e.IPFIX, Transport: string(e.Transport), Refresh: e.Refresh, Domain: e.Domain,
				})}, nil
			}
		case e.File != "":
			wish.name, wish.open = "file "+e.File, func() (sink, error) {
				return export.OpenFile(export.FileOptions{
					Path: e.File, CSV: e.Format == model.CSV, Size: e.Rotate.Size, Age: e.Rotate.Age, Keep: e.Rotate.Keep,
				})
			}
		case e.Kafka != nil:
			wish.name, wish.open = "kafka "+e.Topic+" at "+strings.Join(e.Kafka, ", "), func() (sink, error) {
				return kafka.New(kafka.Options{Brokers: e.Kafka, Topic: e.Topic, TLS: e.TLS, Login: e.Login})
			}
		}
		wishes = append(wishes, wish)
	}
	return wishes
}

// collectorSink gives a collector the names that it needs.
type collectorSink struct{ *export.Collector }

// Consume implements sink.
func (s collectorSink) Consume(reports []flow.Report, names flow.Names) {
	full, ok := names.(export.Names)
	if !ok {
		full = namesOnly{names}
	}
	s.Collector.Consume(reports, full)
}

// namesOnly knows no addresses.
type namesOnly struct{ flow.Names }

// BackendAddress implements export.Names.
func (namesOnly) BackendAddress(uint16) netip.Addr { return netip.Addr{} }

// exporter is a sink that counts what it loses itself, and knows what is wrong.
type exporter interface {
	State() (export.Losses, error)
}

// aborter is a sink whose Consume may wait for others. After Abort it doesn't.
type aborter interface{ Abort() }

// BackendAddress is where a backend is.
func (n flowNames) BackendAddress(id uint16) netip.Addr { return n.addresses[id] }
