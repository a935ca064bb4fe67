package pkt_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
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

// A file that is cut at any byte gives the packets before, and says where the one is that it lacks; whatever else is wrong with it, its
// reader ends with an error or packets, and takes no more memory than the file.
func TestCaptureCutAnywhere(t *testing.T) {
	for _, ng := range []bool{false, true} {
		whole := writeCapture(t, ng, layers.LinkTypeEthernet, texts[:4]...).Bytes()
		read := func(file []byte) (packets int, err error) {
			capture, err := pkt.NewCapture(bytes.NewReader(file))
			for err == nil {
				if _, err = capture.Next(); err == nil {
					packets++
				}
			}
			return packets, err
		}
		ends := []int{0} // where the file may end
		for n := range whole {
			packets, err := read(whole[:n])
			broken, ok := errors.AsType[*pkt.BrokenError](err)
			switch {
			case err == io.EOF:
				ends = append(ends, n)
			case ok && (!broken.Cut || broken.Packet != packets+1 || broken.Offset != int64(ends[len(ends)-1]) || !strings.Contains(err.Error(), "the file was cut off in it")),
				!ok && (packets > 0 || n >= 28 || !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF)):
				t.Errorf("ng %v, %d of %d bytes: %d packets, then %v", ng, n, len(whole), packets, err)
			}
		}
		if len(ends) < 5 {
			t.Errorf("ng %v: it may end at %v", ng, ends)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		damages := 0
		for n := range whole {
			for _, wrong := range []byte{0, 1, 0x7f, 0xff} {
				damaged := bytes.Clone(whole)
				damaged[n] = wrong
				damages++
				if packets, err := read(damaged); packets > 4 || err == nil {
					t.Errorf("ng %v: byte %d as %#x makes %d packets, %v", ng, n, wrong, packets, err)
				}
			}
		}
		runtime.ReadMemStats(&after)
		if each := (after.TotalAlloc - before.TotalAlloc) / uint64(damages); each > 1<<20 {
			t.Errorf("ng %v: each of %d damaged files took %d bytes of memory", ng, damages, each)
		}
	}
}

// What other tools write: either order of bytes, nanoseconds, gzip, packets without a time or in blocks of old.
func TestCaptureForms(t *testing.T) {
	frame, err := pkt.Parse(texts[0])
	if err != nil {
		t.Fatal(err)
	}
	padded := append(bytes.Clone(frame), make([]byte, (4-len(frame)%4)%4)...)
	at := time.Unix(1_700_000_000, 123_456_789).UTC()
	pcap := func(order binary.AppendByteOrder, magic uint32, part uint32) (b []byte) {
		b = order.AppendUint32(nil, magic)
		b = order.AppendUint16(order.AppendUint16(b, 2), 4)
		for _, word := range []uint32{0, 0, 0, 1, uint32(at.Unix()), part, uint32(len(frame)), 1000} { // some write 0 for no limit
			b = order.AppendUint32(b, word)
		}
		return append(b, frame...)
	}
	block := func(order binary.AppendByteOrder, kind uint32, body ...byte) []byte {
		b := order.AppendUint32(order.AppendUint32(nil, kind), uint32(len(body)+12))
		return order.AppendUint32(append(b, body...), uint32(len(body)+12))
	}
	section := func(order binary.AppendByteOrder, options ...byte) []byte {
		begin := order.AppendUint32(nil, 0x1a2b3c4d)
		begin = append(order.AppendUint16(order.AppendUint16(begin, 1), 0), bytes.Repeat([]byte{0xff}, 8)...)
		described := order.AppendUint32(order.AppendUint16(order.AppendUint16(nil, 1), 0), 0)
		return append(block(order, 0x0a0d0d0a, begin...), block(order, 1, append(described, options...)...)...)
	}
	packet := func(order binary.AppendByteOrder, kind uint32, ticks uint64) []byte {
		var body []byte
		for _, word := range []uint32{0, uint32(ticks >> 32), uint32(ticks), uint32(len(frame)), 1000} {
			body = order.AppendUint32(body, word)
		}
		return block(order, kind, append(body, padded...)...)
	}
	little, big := binary.LittleEndian, binary.BigEndian
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write(pcap(little, 0xa1b2c3d4, 123456))
	w.Close()
	micro, half := at.Truncate(time.Microsecond), time.Unix(at.Unix(), 500_000_000).UTC()
	for name, c := range map[string]struct {
		file   []byte
		at     time.Time
		length int
	}{
		"microseconds":    {pcap(little, 0xa1b2c3d4, 123456), micro, 1000},
		"big-endian":      {pcap(big, 0xa1b2c3d4, 123456), micro, 1000},
		"nanoseconds":     {pcap(big, 0xa1b23c4d, 123456789), at, 1000},
		"gzip":            {packed.Bytes(), micro, 1000},
		"pcapng":          {append(section(little), packet(little, 6, uint64(micro.UnixMicro()))...), micro, 1000},
		"nanosecond ng":   {append(section(big, 0, 9, 0, 1, 9, 0, 0, 0), packet(big, 6, uint64(at.UnixNano()))...), at, 1000},
		"halves":          {append(section(little, 9, 0, 1, 0, 0x81, 0, 0, 0), packet(little, 6, uint64(at.Unix())*2+1)...), half, 1000},
		"obsolete":        {append(section(big), packet(big, 2, uint64(micro.UnixMicro()))...), micro, 1000},
		"without time":    {append(section(little), block(little, 3, append(little.AppendUint32(nil, uint32(len(frame))), padded...)...)...), time.Time{}, len(frame)},
		"two sections":    {append(section(big), append(section(little), packet(little, 6, uint64(micro.UnixMicro()))...)...), micro, 1000},
		"others' blocks":  {append(section(little), append(block(little, 5, 1, 2, 3, 4), packet(little, 6, uint64(micro.UnixMicro()))...)...), micro, 1000},
		"times from then": {append(section(little, 14, 0, 8, 0, 0, 1, 0, 0, 0, 0, 0, 0), packet(little, 6, uint64(micro.Add(-256*time.Second).UnixMicro()))...), micro, 1000},
	} {
		capture, err := pkt.NewCapture(bytes.NewReader(c.file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := capture.Next()
		if err != nil || !bytes.Equal(got.Frame, frame) || !got.Time.Equal(c.at) || got.Length != c.length {
			t.Errorf("%s: %s, %d bytes, %x, %v", name, got.Time, got.Length, got.Frame, err)
		}
		if _, err := capture.Next(); err != io.EOF {
			t.Errorf("%s: behind it %v", name, err)
		}
	}
}
