package demo

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"gardu/ctl/api"
)

// requests is the size of a sample, large enough that weights show.
const requests = 1000

// talks is how many connections are kept open while daemon and backend die.
const talks = 24

// The hostile client's addresses: one that nobody has heard of, and one in the set known-bad.
var (
	hostileNew   = netip.MustParseAddr("203.0.113.66")
	hostileKnown = netip.MustParseAddr("203.0.113.200")
)

// shares are the parts of the traffic that the weights 100, 100, 50 ask for.
var shares = map[string]float64{"b1": 0.4, "b2": 0.4, "b3": 0.2}

// spread sends requests to both services, and compares with what the weights ask for. It also learns the pace that leaves
// this machine some air when all conversations go on.
func (d *demo) spread(ctx context.Context) (string, error) {
	var seen []string
	for _, s := range services {
		start := time.Now()
		t := visitor{node: d.client}.many(ctx, s.address, requests)
		if t.failed > 0 {
			return "", fmt.Errorf("%s: %d of %d requests failed: %w", s.name, t.failed, requests, t.err)
		}
		d.pace = max(d.pace, (2 * talks * time.Since(start) / requests).Round(spacing))
		d.say("%d requests to %s (%s, by %s): %s", requests, s.name, s.address, s.forward, d.perBackend(t))
		for name, share := range shares {
			got := float64(t.served[name]) / requests
			if deviation := 5 * math.Sqrt(share*(1-share)/requests); math.Abs(got-share) > deviation {
				return "", fmt.Errorf("%s: %s served %.0f%%, far from %.0f%%", s.name, name, 100*got, 100*share)
			}
		}
		seen = append(seen, s.name+": "+d.perBackend(t))
	}
	return strings.Join(seen, "; "), nil
}

// perBackend is "b1 402, b2 396, b3 202".
func (d *demo) perBackend(t tally) string {
	var parts []string
	for _, b := range d.backends {
		parts = append(parts, fmt.Sprintf("%s %d", b.node.Name(), t.served[b.node.Name()]))
	}
	return strings.Join(parts, ", ")
}

// blockedBySet shows that an address of the set known-bad gets no answer.
func (d *demo) blockedBySet(ctx context.Context) (string, error) {
	if err := d.unanswered(ctx, hostileKnown); err != nil {
		return "", err
	}
	rules, err := d.api.Rules(ctx)
	if err != nil {
		return "", err
	}
	for _, r := range rules {
		if r.Name == "known-bad" && r.Decided > 0 {
			return fmt.Sprintf("%s gets no answer; rule known-bad dropped %d packets", hostileKnown, r.Decided), nil
		}
	}
	return "", fmt.Errorf("no answer for %s, but rule known-bad dropped nothing", hostileKnown)
}

// blockedByHand lets the other hostile address in, blocks it, and shows that its open connection dies too.
func (d *demo) blockedByHand(ctx context.Context) (string, error) {
	hostile := visitor{d.hostile, hostileNew, d.pace}
	talk, err := hostile.converse(ctx, services[0].address)
	if err != nil {
		return "", fmt.Errorf("%s got no answer before the block: %w", hostileNew, err)
	}
	defer talk.stop()
	d.say("%s talks to %s", hostileNew, talk.backend)
	if err := d.command(ctx, "block", hostileNew.String(), "--for", "10m", "--why", "seen in the demo"); err != nil {
		return "", err
	}
	err = d.until(ctx, "the open connection stops", func() (bool, error) { return talk.silent(), nil })
	if err != nil {
		return "", err
	}
	if err := d.unanswered(ctx, hostileNew); err != nil {
		return "", err
	}
	if !talk.silent() {
		return "", fmt.Errorf("the open connection of %s goes on", hostileNew)
	}
	blocks, err := d.api.Blocks(ctx)
	if err != nil {
		return "", err
	}
	for _, b := range blocks {
		if b.Prefix.Addr() == hostileNew && b.Packets > 0 {
			return fmt.Sprintf("%s lost its open connection and gets no other; the block dropped %d packets", hostileNew, b.Packets), nil
		}
	}
	return "", fmt.Errorf("the block of %s dropped nothing: %+v", hostileNew, blocks)
}

// unanswered is an error if a request from that address gets anywhere.
func (d *demo) unanswered(ctx context.Context, source netip.Addr) error {
	name, err := visitor{node: d.hostile, source: source}.once(ctx, services[0].address, silence)
	if err == nil {
		return fmt.Errorf("%s was answered by %s", source, name)
	}
	if timeout := net.Error(nil); !errors.As(err, &timeout) || !timeout.Timeout() {
		return fmt.Errorf("a request from %s failed otherwise: %w", source, err)
	}
	return nil
}

// killDaemon opens long-lived connections, kills the daemon, shows that the data plane goes on without it, and starts
// another, which must take over.
func (d *demo) killDaemon(ctx context.Context) (string, error) {
	for i := range talks {
		talk, err := visitor{node: d.client, pace: d.pace}.converse(ctx, services[i%len(services)].address)
		if err != nil {
			return "", fmt.Errorf("open a connection: %w", err)
		}
		d.talks = append(d.talks, talk)
	}
	d.say("%d connections opened, each asks something every %s", len(d.talks), d.pace)
	before, err := d.forwarded(ctx)
	if err != nil {
		return "", err
	}
	d.daemon.Kill()
	t := visitor{node: d.client}.many(ctx, services[0].address, 100)
	if t.failed > 0 {
		return "", fmt.Errorf("%d of 100 requests failed while no daemon ran: %w", t.failed, t.err)
	}
	if err := d.unanswered(ctx, hostileNew); err != nil {
		return "", fmt.Errorf("the block did not outlive the daemon: %w", err)
	}
	d.say("without a daemon: 100 new requests, all answered within %s; the block holds", t.slow.Round(time.Millisecond))
	if err := d.runDaemon(); err != nil {
		return "", err
	}
	if err := d.until(ctx, "the next daemon is ready", func() (bool, error) { return d.backendsUp(ctx, len(d.backends)) }); err != nil {
		return "", err
	}
	after, err := d.forwarded(ctx)
	if err != nil {
		return "", err
	}
	if after <= before {
		return "", fmt.Errorf("the counters didn't go on: %d packets forwarded before, %d after", before, after)
	}
	if err := d.allAlive("b1", "b2", "b3"); err != nil {
		return "", err
	}
	d.say("the next daemon took over: %d packets forwarded before, %d now", before, after)
	return fmt.Sprintf("%d open connections went on, 100 new ones were served meanwhile", len(d.talks)), nil
}

// forwarded is how many packets went to backends.
func (d *demo) forwarded(ctx context.Context) (uint64, error) {
	status, err := d.api.Status(ctx)
	return status.Reasons["forward"].Packets, err
}

// killBackend kills b2, waits until it is known to be down, and shows that new requests go elsewhere and that nobody
// else's connection broke.
func (d *demo) killBackend(ctx context.Context) (string, error) {
	victim := d.backends[1]
	victim.stop()
	killed := time.Now()
	err := d.until(ctx, victim.node.Name()+" is down", func() (bool, error) { return d.backendsUp(ctx, len(d.backends)-1) })
	if err != nil {
		return "", err
	}
	noticed := time.Since(killed).Round(10 * time.Millisecond)
	d.say("%s killed; found dead after %s", victim.node.Name(), noticed)
	t := visitor{node: d.client}.many(ctx, services[0].address, requests/2)
	d.say("%d new requests, the slowest in %s: %s", requests/2, t.slow.Round(time.Millisecond), d.perBackend(t))
	if t.failed > 0 {
		return "", fmt.Errorf("%d of %d requests failed: %w", t.failed, requests/2, t.err)
	}
	if err := d.allAlive("b1", "b3"); err != nil {
		return "", err
	}
	alive := 0
	for _, talk := range d.talks {
		if talk.err() == nil {
			alive++
		}
	}
	if alive == len(d.talks) {
		return "", errors.New("no connection was on the dead backend: nothing is proven")
	}
	d.say("of %d open connections %d were on it and broke; the other %d go on", len(d.talks), len(d.talks)-alive, alive)
	return fmt.Sprintf("all new requests went elsewhere after %s; all %d connections to the others live", noticed, alive), nil
}

// allAlive checks that every connection to these backends has answers still coming.
func (d *demo) allAlive(names ...string) error {
	for _, talk := range d.talks {
		if strings.Contains(strings.Join(names, " "), talk.backend) {
			if err := talk.err(); err != nil {
				return fmt.Errorf("a connection to %s broke: %w", talk.backend, err)
			}
		}
	}
	return nil
}

// flows shows the largest flow records, and checks that they know what was seen above.
func (d *demo) flows(ctx context.Context) (string, error) {
	const shown = 5
	if err := d.command(ctx, "flows", "service web, web6", "--sort", "bytes", "-n", fmt.Sprint(shown)); err != nil {
		return "", err
	}
	var records, packets, bytes uint64
	perfect := 0
	err := d.api.Flows(ctx, api.FlowQuery{}, func(f api.Flow) error {
		records++
		packets += f.Packets + f.PacketsReply
		bytes += f.Bytes + f.BytesReply
		if f.Service != "" && f.Backend != "" && f.Packets > 0 && f.Bytes > 0 && f.PacketsReply > 0 && f.BytesReply > 0 {
			perfect++
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	if perfect == 0 {
		return "", fmt.Errorf("none of %d flow records has a service, a backend, and packets and bytes both ways", records)
	}
	return fmt.Sprintf("%d records, %d packets, %s; %d with service, backend and both directions", records, packets, size(bytes), perfect), nil
}
