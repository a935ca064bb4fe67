package kafka

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"gardu/ctl/flow"
	"gardu/ctl/flow/export"
	"gardu/ctl/flow/export/line"
	"gardu/ctl/model"
)

// Options say where the cluster is.
type Options struct {
	Brokers []string // hosts and ports, of which one is enough to find the others
	Topic   string
	TLS     model.TLS
	Login   model.Login
}

const (
	buffered    = 10_000 // records that wait for brokers
	dialTimeout = 10 * time.Second
)

// Producer sends reports to a topic. Each is there once: brokers know a record that they are sent again.
type Producer struct {
	topic  string
	client *kgo.Client
	ctx    context.Context // until Abort
	abort  context.CancelFunc
	doing  doing
}

// doing is what became of reports, and what is wrong.
type doing struct {
	mu   sync.Mutex
	lost export.Losses
	err  error
}

// New connects to nothing yet.
func New(options Options) (*Producer, error) {
	p := &Producer{topic: options.Topic}
	p.ctx, p.abort = context.WithCancel(context.Background())
	secure, err := security(options)
	if err != nil {
		return nil, err
	}
	p.client, err = kgo.NewClient(append(secure,
		kgo.ClientID("gardu"),
		kgo.SeedBrokers(options.Brokers...),
		kgo.DefaultProduceTopic(options.Topic),
		kgo.MaxBufferedRecords(buffered),
		kgo.ProducerLinger(0), // batches come as they are
		kgo.UnknownTopicRetries(-1),
		kgo.WithHooks(&p.doing),
	)...)
	return p, err
}

// OnBrokerConnect implements kgo.HookBrokerConnect.
func (d *doing) OnBrokerConnect(_ kgo.BrokerMetadata, _ time.Duration, _ net.Conn, err error) {
	if err != nil {
		d.set(err)
	}
}

func (d *doing) set(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// State says what was lost so far, and what is wrong at the moment; nil if nothing is.
func (p *Producer) State() (export.Losses, error) {
	p.doing.mu.Lock()
	defer p.doing.mu.Unlock()
	return p.doing.lost, p.doing.err
}

// Consume waits until the brokers have the reports. It gives up one that they refuse for good.
func (p *Producer) Consume(reports []flow.Report, names flow.Names) {
	var waiting sync.WaitGroup
	for i := range reports {
		value := bytes.TrimSuffix(line.NDJSON(nil, &reports[i], names), []byte("\n"))
		waiting.Add(1)
		p.client.Produce(p.ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
			defer waiting.Done()
			p.done(reports[i:i+1], err)
		})
	}
	waiting.Wait()
}

// done notes what became of a report.
func (p *Producer) done(report []flow.Report, err error) {
	p.doing.mu.Lock()
	defer p.doing.mu.Unlock()
	if err != nil {
		p.doing.lost.Add(report)
	}
	if !errors.Is(err, context.Canceled) { // which says nothing of the brokers
		p.doing.err = err
	}
}

// Abort makes Consume give up what isn't sent, now and from now on. It counts as lost.
func (p *Producer) Abort() { p.abort() }

// Close ends the connections.
func (p *Producer) Close() error {
	p.abort()
	p.client.Close()
	return nil
}
