package exporttest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"testing"

	"github.com/netsampler/goflow2/v2/decoders/netflow"
)

// ReversePEN is the enterprise whose elements are those of the other direction (RFC 5103).
const ReversePEN = 29305

// Element names an information element, of the direction that opened the flow or of the other.
type Element struct {
	ID         uint16
	Reverse    bool
	Enterprise uint32 // that numbered it; 0: IANA
}

// Values are the elements of a record.
type Values map[Element][]byte

// Decoder decodes the messages of one transport session, and holds them against the protocol.
type Decoder struct {
	testing.TB
	Messages       int
	Told           int // sets of templates
	Flows, Options []Values

	templates netflow.NetFlowTemplateSystem
	sequence  uint32
}

// New returns a decoder that knows no templates yet.
func New(t testing.TB) *Decoder {
	return &Decoder{TB: t, templates: netflow.CreateTemplateSystem()}
}

// Take decodes a message.
func (d *Decoder) Take(data []byte) {
	d.Helper()
	d.Messages++
	if said := binary.BigEndian.Uint16(data[2:]); int(said) != len(data) {
		d.Errorf("a message of %d bytes says that it has %d", len(data), said)
		return
	}
	var message netflow.IPFIXPacket
	if err := netflow.DecodeMessageVersion(bytes.NewBuffer(bytes.Clone(data)), d.templates, nil, &message); err != nil {
		d.Errorf("goflow2: %v", err)
		return
	}
	if message.SequenceNumber != d.sequence {
		d.Errorf("sequence number %d, after %d data records", message.SequenceNumber, d.sequence)
	}
	for _, set := range message.FlowSets {
		d.takeSet(set)
	}
}

func (d *Decoder) takeSet(set any) {
	d.Helper()
	switch set := set.(type) {
	case netflow.DataFlowSet:
		for _, r := range set.Records {
			d.Flows = append(d.Flows, d.values(r.Values))
			d.sequence++
		}
	case netflow.OptionsDataFlowSet:
		for _, r := range set.Records {
			values := d.values(r.ScopesValues)
			maps.Copy(values, d.values(r.OptionsValues))
			d.Options = append(d.Options, values)
			d.sequence++
		}
	case netflow.TemplateFlowSet:
		d.Told++
	case netflow.IPFIXOptionsTemplateFlowSet:
	default:
		d.Errorf("a set %T", set)
	}
}

func (d *Decoder) values(fields []netflow.DataField) Values {
	d.Helper()
	values := Values{}
	for _, f := range fields {
		e := Element{ID: f.Type, Reverse: f.PenProvided && f.Pen == ReversePEN}
		if f.PenProvided && !e.Reverse {
			e.Enterprise = f.Pen
		}
		if _, twice := values[e]; twice {
			d.Errorf("element %v is there twice", e)
		}
		values[e] = f.Value.([]byte)
	}
	return values
}

// Number is the value of an element that is one; 0 where it is absent.
func (v Values) Number(id uint16, reverse bool) uint64 {
	b := v[Element{ID: id, Reverse: reverse}]
	return binary.BigEndian.Uint64(append(make([]byte, 8-len(b)), b...))
}

// NumberOf is the value of an enterprise's element.
func (v Values) NumberOf(enterprise uint32, id uint16) uint32 {
	b := v[Element{ID: id, Enterprise: enterprise}]
	return binary.BigEndian.Uint32(append(make([]byte, 4-len(b)), b...))
}

// Address is the value of an element that is one; the zero Addr where it is absent.
func (v Values) Address(id uint16) netip.Addr {
	addr, _ := netip.AddrFromSlice(v[Element{ID: id}])
	return addr
}

// Text is the value of an element as people write it; "absent" where it is.
func (v Values) Text(id uint16, reverse bool) string {
	b, ok := v[Element{ID: id, Reverse: reverse}]
	switch {
	case !ok:
		return "absent"
	case id == 8 || id == 12 || id == 15 || id == 27 || id == 28 || id == 62: // addresses
		return v.Address(id).String()
	case id == 82 || id == 96 || id == 335 || id == 350: // names
		return string(b)
	}
	return fmt.Sprint(v.Number(id, reverse))
}
