package pkt_test

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"gardu/ctl/pkt"
)

// writeCapture makes a file with each text as a packet, a second apart.
func writeCapture(t *testing.T, ng bool, link layers.LinkType, texts ...string) *bytes.Buffer {
	t.Helper()
	var file bytes.Buffer
	var write func(gopacket.CaptureInfo, []byte) error
	flush := func() error { return nil }
	if ng {
		w, err := pcapgo.NewNgWriter(&file, link)
		if err != nil {
			t.Fatal(err)
		}
		write, flush = w.WritePacket, w.Flush
	} else {
		w := pcapgo.NewWriter(&file)
		if err := w.WriteFileHeader(65535, link); err != nil {
			t.Fatal(err)
		}
		write = w.WritePacket
	}
	for i, text := range texts {
		frame, err := pkt.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		info := gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), CaptureLength: len(frame), Length: len(frame)}
		if err := write(info, frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := flush(); err != nil {
		t.Fatal(err)
	}
	return &file
}

func TestCapture(t *testing.T) {
	for _, ng := range []bool{false, true} {
		capture, err := pkt.NewCapture(writeCapture(t, ng, layers.LinkTypeEthernet, texts...))
		if err != nil {
			t.Fatal(err)
		}
		for i, text := range texts {
			got, err := capture.Next()
			if err != nil {
				t.Fatal(err)
			}
			if pkt.Describe(got.Frame) != text || got.Time.Unix() != int64(i) || got.Length != len(got.Frame) {
				t.Errorf("ng %v: packet %d is %s at %s", ng, i, pkt.Describe(got.Frame), got.Time)
			}
		}
		if _, err := capture.Next(); err != io.EOF {
			t.Errorf("ng %v: after the last packet: %v", ng, err)
		}
	}
}

func TestCaptureRefuses(t *testing.T) {
	file := writeCapture(t, false, layers.LinkTypeRaw, texts[0])
	if _, err := pkt.NewCapture(file); err == nil || !strings.Contains(err.Error(), "only Ethernet") {
		t.Errorf("raw IP capture: %v", err)
	}
	if _, err := pkt.NewCapture(strings.NewReader("tcp 1.2.3.4:1 > ...")); err == nil {
		t.Error("text was taken for a capture")
	}
	if _, err := pkt.NewCapture(strings.NewReader("")); !errors.Is(err, io.EOF) {
		t.Errorf("empty file: %v", err)
	}
	file = writeCapture(t, false, layers.LinkTypeEthernet, texts[0])
	file.Truncate(file.Len() - 1)
	capture, err := pkt.NewCapture(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := capture.Next(); err == nil || err == io.EOF || !strings.Contains(err.Error(), "packet 1") {
		t.Errorf("cut file: %v", err)
	}
}
