package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"gardu/ctl/api"
)

const (
	plannedFlows = 50_000 // as many as a plan judges
	replayed     = 250_000
)

// previews are rows about what is asked before a change: what becomes of live flows, and of a capture's packets.
func previews() []task {
	return []task{
		{name: "plan, no flows", about: "gardu plan of another rule for an ordinary configuration: differences, programs for both, the price of a packet", unit: "ms",
			sample: func(m *manager) (float64, error) {
				if err := m.stop(); err != nil {
					return 0, err
				}
				if _, err := m.start(ordinary); err != nil {
					return 0, err
				}
				return m.planned(0)
			}},
		{name: "plan over 50,000 flows", about: "the same while 50,000 flows are live, each judged by both", unit: "ms", of: "plan, no flows",
			sample: func(m *manager) (float64, error) {
				if err := m.live(plannedFlows); err != nil {
					return 0, err
				}
				return m.planned(plannedFlows * 9 / 10) // some had no place
			}},
		{name: "replay of 250k packets", about: "gardu replay of a capture of 50,000 flows by the ordinary configuration, loading its programs", unit: "ms", sample: (*manager).replay},
	}
}

// planned is how long a plan takes that judges at least so many flows.
func (m *manager) planned(flows int) (float64, error) {
	next := strings.Replace(ordinary, "match: {proto: tcp, dport: 22}", "match: {proto: udp, dport: 20000-40000}", 1)
	begin := time.Now()
	plan, err := m.api.Plan(context.Background(), api.PlanRequest{Name: "bench.yaml", Dir: m.dir, YAML: m.withAPI(next)})
	took := time.Since(begin)
	switch {
	case err != nil:
		return 0, err
	case plan.Flows == nil || plan.Flows.Judged < flows || flows > 0 && plan.Flows.Cut == 0:
		return 0, fmt.Errorf("the plan says of flows: %+v", plan.Flows)
	case plan.Price == nil || plan.Price.Error != "":
		return 0, fmt.Errorf("the plan says of its price: %+v", plan.Price)
	}
	return ms(took), nil
}

// live has the client send a datagram of each of so many flows.
func (m *manager) live(flows int) error {
	return m.client.Do(func() error {
		conn, err := net.ListenPacket("udp4", "198.51.100.10:0")
		if err != nil {
			return err
		}
		defer conn.Close()
		for i := range flows {
			if _, err := conn.WriteTo([]byte("bench"), &net.UDPAddr{IP: net.IPv4(198, 51, 100, 1), Port: 1024 + i}); err != nil {
				return err
			}
		}
		return nil
	})
}

// replay is how long gardu takes to go through a capture.
func (m *manager) replay() (float64, error) {
	if _, err := os.Stat(m.path("pcap")); errors.Is(err, os.ErrNotExist) {
		if err := writePcap(m.path("pcap"), replayed); err != nil {
			return 0, err
		}
		if err := os.WriteFile(m.path("replay.yaml"), []byte(ordinary), 0o600); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	_, err := m.box.Output(context.Background(), m.binary, "replay", "-c", m.path("replay.yaml"), m.path("pcap"))
	return ms(time.Since(begin)), err
}

// writePcap writes packets of 50,000 flows, 10 us apart (draft-ietf-opsawg-pcap).
func writePcap(path string, packets int) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(file, 1<<20)
	for _, word := range []uint32{0xa1b2c3d4, 4<<16 | 2, 0, 0, 65535, 1} {
		_ = binary.Write(out, binary.LittleEndian, word) // Flush tells
	}
	flows := everNew(plannedFlows)()
	r := random()
	for i := range packets {
		flow := flows[i%len(flows)]
		if i >= len(flows) {
			flow = flows[r.IntN(len(flows))]
		}
		frame, at := flow.frame(), uint32(i)*10
		head := []uint32{1_700_000_000 + at/1e6, at % 1e6, uint32(len(frame)), uint32(len(frame))}
		_ = binary.Write(out, binary.LittleEndian, head)
		_, _ = out.Write(frame)
	}
	return errors.Join(out.Flush(), file.Close())
}
