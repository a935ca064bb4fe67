package ipfix

import (
	"net/netip"
	"time"

	"gardu/ctl/flow"
)

// Sizes of messages. A message as small as MinMessage holds any record and any template.
const (
	MinMessage = 512
	MaxMessage = 65535

	messageHeader = 16
	setHeader     = 4
	maxName       = 254 // of a variable length that takes one byte
)

const version = 10

// Message is a whole message, valid during the call that it is handed to.
type Message struct {
	Data    []byte
	Reports []flow.Report // that it holds
}

// Names tells what ids stand for, and where backends are.
type Names interface {
	flow.Names
	BackendAddress(id uint16) netip.Addr // the zero Addr for what is not known
}

// Losses are reports that were not sent, and the packets and bytes that they were of.
type Losses struct {
	Reports uint64
	flow.Count
}

// Add counts reports.
func (l *Losses) Add(reports []flow.Report) {
	l.Reports += uint64(len(reports))
	for i := range reports {
		l.Count = l.Plus(reports[i].Delta).Plus(reports[i].DeltaReply)
	}
}

// Merge adds others.
func (l *Losses) Merge(other Losses) {
	l.Reports += other.Reports
	l.Count = l.Plus(other.Count)
}

// Encoder makes the messages of one transport session: sequence numbers and what the collector was told begin anew with it.
// Each message is handed to Send; an error of it ends the call, and that message counts as not sent.
type Encoder struct {
	Send   func(Message) error
	Domain uint32 // observation domain
	Limit  int    // bytes of a message, MinMessage to MaxMessage

	sequence uint32 // data records in the messages before this one
	told     map[name]string
	sample   int // one packet of so many was counted in the last record; 0 and 1: every one

	message []byte
	set     int           // where the set that is open begins; 0: none is
	records uint32        // data records in the message
	rest    []flow.Report // those that were not sent; the message holds the first of them
	held    int           // so many
	scratch []byte        // for a record
}

// name is something that has one, by the template that tells it.
type name struct {
	in *template
	id uint32
}

// Refresh tells the templates, how packets are sampled, and what was lost so far. Names are told again where they are needed
// from now on.
func (e *Encoder) Refresh(now time.Time, losses Losses) error {
	e.told = make(map[name]string)
	e.begin(nil)
	for _, t := range templates {
		if err := e.add(now, t.set(), t.put(e.scratch[:0])); err != nil {
			return err
		}
	}
	if err := e.addSampling(now); err != nil {
		return err
	}
	if err := e.addLosses(now, losses); err != nil {
		return err
	}
	return e.flush(now)
}

// addSampling tells how packets are sampled.
func (e *Encoder) addSampling(now time.Time) error {
	of := uint32(max(e.sample, 1))
	if err := e.add(now, intervalOptions.id, order.AppendUint32(order.AppendUint32(e.scratch[:0], e.Domain), of)); err != nil {
		return err
	}
	b := order.AppendUint32(e.scratch[:0], e.Domain)
	if of == 1 { // every packet counts: of one in a row one, and no space between
		b = order.AppendUint16(b, algorithmCount)
		b = order.AppendUint32(b, 1)
		b = order.AppendUint32(b, 0)
		return e.add(now, samplingOptions.id, b)
	}
	b = order.AppendUint16(b, algorithmRandom)
	b = order.AppendUint32(b, 1)
	return e.add(now, randomOptions.id, order.AppendUint32(b, of))
}

// Losses tells what was lost so far.
func (e *Encoder) Losses(now time.Time, losses Losses) error {
	e.begin(nil)
	if err := e.addLosses(now, losses); err != nil {
		return err
	}
	return e.flush(now)
}

func (e *Encoder) addLosses(now time.Time, losses Losses) error {
	b := order.AppendUint32(e.scratch[:0], e.Domain)
	b = order.AppendUint64(b, losses.Reports)
	b = order.AppendUint64(b, losses.Packets)
	b = order.AppendUint64(b, losses.Bytes)
	return e.add(now, lossOptions.id, b)
}

// Reports tells of flows, and before the first record that needs them the names, and how packets are sampled. rest are those that no message sent holds.
func (e *Encoder) Reports(now time.Time, reports []flow.Report, names Names) (rest []flow.Report, err error) {
	e.begin(reports)
	for i := range reports {
		r := record{Report: &reports[i]}
		if max(r.Sample, 1) != max(e.sample, 1) {
			e.sample = r.Sample
			if err := e.addSampling(now); err != nil {
				return e.rest, err
			}
		}
		if r.Service != 0 {
			r.hop = hopOf(&r, names)
		}
		if err := e.nameAll(now, &r, names); err != nil {
			return e.rest, err
		}
		t := templateOf(&r)
		b := e.scratch[:0]
		for j := range t.fields {
			b = t.fields[j].put(b, &r)
		}
		e.scratch = b
		if err := e.add(now, t.id, b); err != nil {
			return e.rest, err
		}
		e.held++
	}
	err = e.flush(now)
	return e.rest, err
}

// hopOf is where a service's flow was sent; 0.0.0.0 if nowhere.
func hopOf(r *record, names Names) netip.Addr {
	if hop := names.BackendAddress(r.Backend); hop.IsValid() {
		return hop
	}
	return netip.IPv4Unspecified()
}

// nameAll tells the names that a record needs and the collector lacks.
func (e *Encoder) nameAll(now time.Time, r *record, names Names) error {
	ifindex := func(index uint32) error {
		return e.name(now, name{&interfaceOptions, index}, names.Interface(index))
	}
	err := e.name(now, name{&ruleOptions, r.Rule}, names.Rule(r.Rule))
	if err == nil && r.Ifindex != 0 {
		err = ifindex(r.Ifindex)
	}
	if err == nil && r.IfindexReply != 0 {
		err = ifindex(r.IfindexReply)
	}
	if err == nil && r.Service != 0 {
		err = e.name(now, name{&serviceOptions, application(r.Service)}, names.Service(r.Service))
	}
	if err == nil && r.Backend != 0 && !r.hop.IsUnspecified() {
		err = e.nameBackend(now, r, names)
	}
	return err
}

func (e *Encoder) nameBackend(now time.Time, r *record, names Names) error {
	options := pick(r.hop.Is6(), &backend6Options, &backend4Options)
	backend := name{options, uint32(r.Backend)}
	text := names.Backend(r.Backend)
	if e.told[backend] == text {
		return nil
	}
	e.told[backend] = text
	b := append(order.AppendUint32(e.scratch[:0], application(r.Service)), r.hop.AsSlice()...)
	return e.add(now, options.id, putText(b, text))
}

// name tells one name.
func (e *Encoder) name(now time.Time, n name, text string) error {
	if e.told[n] == text {
		return nil
	}
	e.told[n] = text
	return e.add(now, n.in.id, putText(order.AppendUint32(e.scratch[:0], n.id), text))
}

// putText writes a string with its length before it.
func putText(b []byte, text string) []byte {
	text = text[:min(len(text), maxName)]
	return append(append(b, byte(len(text))), text...)
}

// begin starts a message.
func (e *Encoder) begin(reports []flow.Report) {
	e.rest = reports
	e.empty()
}

func (e *Encoder) empty() {
	e.message = append(e.message[:0], make([]byte, messageHeader)...)
	e.set, e.records, e.held = 0, 0, 0
}

// add appends a record to the message, or to the next one if this is full.
func (e *Encoder) add(now time.Time, set uint16, b []byte) error {
	size := len(b)
	if !e.in(set) {
		size += setHeader
	}
	if len(e.message)+size > e.Limit {
		if err := e.flush(now); err != nil {
			return err
		}
	}
	if !e.in(set) {
		e.closeSet()
		e.set = len(e.message)
		e.message = order.AppendUint16(e.message, set)
		e.message = order.AppendUint16(e.message, 0) // its length, once it is known
	}
	e.message = append(e.message, b...)
	if set >= firstTemplate {
		e.records++
	}
	return nil
}

// in says whether the set that is open has that id.
func (e *Encoder) in(set uint16) bool { return e.set != 0 && order.Uint16(e.message[e.set:]) == set }

func (e *Encoder) closeSet() {
	if e.set != 0 {
		order.PutUint16(e.message[e.set+2:], uint16(len(e.message)-e.set))
	}
}

// flush hands the message over, if anything is in it.
func (e *Encoder) flush(now time.Time) error {
	if e.set == 0 {
		return nil
	}
	e.closeSet()
	order.PutUint16(e.message, version)
	order.PutUint16(e.message[2:], uint16(len(e.message)))
	order.PutUint32(e.message[4:], uint32(now.Unix()))
	order.PutUint32(e.message[8:], e.sequence)
	order.PutUint32(e.message[12:], e.Domain)
	if err := e.Send(Message{Data: e.message, Reports: e.rest[:e.held]}); err != nil {
		return err
	}
	e.sequence += e.records
	e.rest = e.rest[e.held:]
	e.empty()
	return nil
}
