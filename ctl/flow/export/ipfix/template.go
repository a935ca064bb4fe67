package ipfix

import "slices"

// Sets of templates, and the first id that a template may have.
const (
	setTemplates        = 2
	setOptionsTemplates = 3
	firstTemplate       = 256
)

// template says what the records of a set are made of. One with a scope is of options: the first so many fields say what they
// are about.
type template struct {
	id     uint16
	scope  int
	fields []field
}

// The templates. Ids are for good: collectors remember them.
var (
	flow4     = template{id: firstTemplate, fields: slices.Concat(ends4, common)}
	flow6     = template{id: firstTemplate + 1, fields: slices.Concat(ends6, common)}
	flow4hop4 = template{id: firstTemplate + 2, fields: slices.Concat(ends4, common, balanced4)}
	flow4hop6 = template{id: firstTemplate + 3, fields: slices.Concat(ends4, common, balanced6)}
	flow6hop4 = template{id: firstTemplate + 4, fields: slices.Concat(ends6, common, balanced4)}
	flow6hop6 = template{id: firstTemplate + 5, fields: slices.Concat(ends6, common, balanced6)}

	samplingOptions = template{id: firstTemplate + 16, scope: 1, fields: []field{
		{id: observationDomainID, length: 4},
		{id: selectorAlgorithm, length: 2}, {id: samplingPacketInterval, length: 4}, {id: samplingPacketSpace, length: 4}}}
	lossOptions = template{id: firstTemplate + 17, scope: 1, fields: []field{
		{id: exportingProcessID, length: 4},
		{id: notSentFlowTotalCount, length: 8}, {id: notSentPacketTotalCount, length: 8}, {id: notSentOctetTotalCount, length: 8}}}
	ruleOptions = template{id: firstTemplate + 18, scope: 1, fields: []field{
		{id: selectorID, length: 4}, {id: selectorName, length: variableLength}}}
	serviceOptions = template{id: firstTemplate + 19, scope: 1, fields: []field{
		{id: applicationID, length: 4}, {id: applicationName, length: variableLength}}}
	backend4Options = template{id: firstTemplate + 20, scope: 2, fields: []field{
		{id: applicationID, length: 4}, {id: ipNextHopIPv4Address, length: 4}, {id: virtualStationName, length: variableLength}}}
	backend6Options = template{id: firstTemplate + 21, scope: 2, fields: []field{
		{id: applicationID, length: 4}, {id: ipNextHopIPv6Address, length: 16}, {id: virtualStationName, length: variableLength}}}
	interfaceOptions = template{id: firstTemplate + 22, scope: 1, fields: []field{
		{id: ingressInterface, length: 4}, {id: interfaceName, length: variableLength}}}

	randomOptions = template{id: firstTemplate + 23, scope: 1, fields: []field{
		{id: observationDomainID, length: 4},
		{id: selectorAlgorithm, length: 2}, {id: samplingSize, length: 4}, {id: samplingPopulation, length: 4}}}
	// For collectors that don't know PSAMP. nfcapd 1.7 wants the interval alone, and reads no template of a set but the first.
	intervalOptions = template{id: firstTemplate + 24, scope: 1, fields: []field{
		{id: observationDomainID, length: 4}, {id: samplingInterval, length: 4}}}

	templates = []*template{&flow4, &flow6, &flow4hop4, &flow4hop6, &flow6hop4, &flow6hop6,
		&intervalOptions, &samplingOptions, &randomOptions, &lossOptions, &ruleOptions, &serviceOptions, &backend4Options, &backend6Options, &interfaceOptions}
)

// templateOf is the one for a flow's record.
func templateOf(r *record) *template {
	six := r.Src.Addr().Is6()
	switch {
	case r.Service == 0:
		return pick(six, &flow6, &flow4)
	case r.hop.Is6():
		return pick(six, &flow6hop6, &flow4hop6)
	default:
		return pick(six, &flow6hop4, &flow4hop4)
	}
}

func pick(first bool, a, b *template) *template {
	if first {
		return a
	}
	return b
}

// set is where the template is told.
func (t *template) set() uint16 {
	if t.scope > 0 {
		return setOptionsTemplates
	}
	return setTemplates
}

// put writes what tells the template.
func (t *template) put(b []byte) []byte {
	b = order.AppendUint16(b, t.id)
	b = order.AppendUint16(b, uint16(len(t.fields)))
	if t.scope > 0 {
		b = order.AppendUint16(b, uint16(t.scope))
	}
	for _, f := range t.fields {
		id := f.id
		if f.enterprise != 0 {
			id |= enterpriseBit
		}
		b = order.AppendUint16(b, id)
		b = order.AppendUint16(b, f.length)
		if f.enterprise != 0 {
			b = order.AppendUint32(b, f.enterprise)
		}
	}
	return b
}
