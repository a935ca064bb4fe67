package kafka

import (
	"context"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"gardu/ctl/flow"
)

const patience = 15 * time.Second

// names knows nothing.
type names struct{}

func (names) Rule(uint32) string      { return "" }
func (names) Service(uint16) string   { return "" }
func (names) Backend(uint16) string   { return "" }
func (names) Interface(uint32) string { return "eth0" }

// batch makes reports numbered from first on; the number is their packets.
func batch(first, count int) []flow.Report {
	reports := make([]flow.Report, count)
	for i := range reports {
		reports[i].Src = netip.MustParseAddrPort("198.51.100.7:40000")
		reports[i].Dst = netip.MustParseAddrPort("192.0.2.10:443")
		reports[i].Delta.Packets = uint64(first + i)
	}
	return reports
}

func cluster(t *testing.T, options ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append(options, kfake.NumBrokers(1))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func producer(t *testing.T, brokers ...string) *Producer {
	t.Helper()
	p, err := New(Options{Brokers: brokers, Topic: "flows"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// read takes so many records from the topic and wants their numbers from 1 on, in order.
func read(t *testing.T, c *kfake.Cluster, count int) {
	t.Helper()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("flows"))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	next := uint64(1)
	for next <= uint64(count) {
		for r := range consumer.PollFetches(ctx).RecordsAll() {
			var object struct {
				Packets   uint64
				Interface string
			}
			if err := json.Unmarshal(r.Value, &object); err != nil {
				t.Fatalf("%v in %q", err, r.Value)
			}
			if object.Packets != next || object.Interface != "eth0" {
				t.Fatalf("record %s, want number %d", r.Value, next)
			}
			next++
		}
		if ctx.Err() != nil {
			t.Fatalf("%d records of %d came", next-1, count)
		}
	}
}

func wantState(t *testing.T, p *Producer, lost uint64, wrong bool) {
	t.Helper()
	got, err := p.State()
	if got.Reports != lost || (err != nil) != wrong {
		t.Errorf("%+v are lost, %v is wrong", got, err)
	}
}

func TestProduce(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(1, "flows"))
	p := producer(t, c.ListenAddrs()...)
	p.Consume(batch(1, buffered+500), names{}) // more than are buffered
	p.Consume(batch(buffered+501, 1), names{})
	wantState(t, p, 0, false)
	read(t, c, buffered+501)
}

// What the brokers refuse is lost and counted.
func TestRefused(t *testing.T) {
	c := cluster(t, kfake.SeedTopics(1, "flows"))
	refused := 0
	c.ControlKey(int16(kmsg.Produce), func(request kmsg.Request) (kmsg.Response, error, bool) {
		refused++
		response := request.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range request.(*kmsg.ProduceRequest).Topics {
			answer := kmsg.NewProduceResponseTopic()
			answer.Topic, answer.TopicID = topic.Topic, topic.TopicID
			for _, partition := range topic.Partitions {
				part := kmsg.NewProduceResponseTopicPartition()
				part.Partition, part.ErrorCode = partition.Partition, kerr.PolicyViolation.Code
				answer.Partitions = append(answer.Partitions, part)
			}
			response.Topics = append(response.Topics, answer)
		}
		return response, nil, true
	})
	p := producer(t, c.ListenAddrs()...)
	p.Consume(batch(1, 3), names{})
	wantState(t, p, 3, true)
	if refused == 0 {
		t.Error("nothing was produced")
	}
	p.Consume(batch(1, 5), names{})
	wantState(t, p, 3, false)
	read(t, c, 5)
}

// Without brokers Consume waits, until it is told to give up.
func TestNoBroker(t *testing.T) {
	c := cluster(t)
	addresses := c.ListenAddrs()
	c.Close()
	p := producer(t, addresses...)
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Consume(batch(1, 100), names{})
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if _, err := p.State(); err != nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nothing is wrong")
		}
	}
	select {
	case <-done:
		t.Error("reports were taken without anybody there")
	default:
	}
	p.Abort()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("Consume doesn't end")
	}
	wantState(t, p, 100, true)
}
