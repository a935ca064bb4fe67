package abi

// Add adds another CPU's part.
func (c *Counter) Add(o Counter) {
	c.Packets += o.Packets
	c.Bytes += o.Bytes
}

// Add adds another CPU's part.
func (c *InterfaceCounter) Add(o InterfaceCounter) {
	for i := range c.Reason {
		c.Reason[i].Add(o.Reason[i])
	}
	c.Sent.Add(o.Sent)
}

// Add adds another CPU's part.
func (c *RuleCounter) Add(o RuleCounter) {
	c.Packets += o.Packets
	c.Bytes += o.Bytes
	c.Decided += o.Decided
	c.Shadow += o.Shadow
}

// Add adds another CPU's part.
func (c *BackendCounter) Add(o BackendCounter) {
	c.Packets += o.Packets
	c.Bytes += o.Bytes
	c.Flows += o.Flows
	c.Named += o.Named
}

// Add adds another CPU's part.
func (c *ExitCounter) Add(o ExitCounter) {
	c.Redirected += o.Redirected
	c.Mirrored += o.Mirrored
	c.Failed += o.Failed
}

// Add adds another CPU's part; Tick and Budget are of a CPU alone and mean nothing in a sum.
func (t *FlowTotals) Add(o FlowTotals) {
	t.Accounted += o.Accounted
	t.AccountedBytes += o.AccountedBytes
	t.Filtered += o.Filtered
	t.Evicted += o.Evicted
	t.EvictedBytes += o.EvictedBytes
	t.Refused += o.Refused
	t.RefusedBytes += o.RefusedBytes
	t.Spilled += o.Spilled
	t.SpilledBytes += o.SpilledBytes
	t.Returned += o.Returned
	t.ReturnedBytes += o.ReturnedBytes
	t.Created += o.Created
	t.Sent += o.Sent
	t.SentBytes += o.SentBytes
	t.StateCreated += o.StateCreated
	t.StateEvicted += o.StateEvicted
	t.StateRefused += o.StateRefused
	t.OutDecided += o.OutDecided
	t.Dropped += o.Dropped
	t.DroppedBytes += o.DroppedBytes
	t.DroppedLost += o.DroppedLost
	t.DroppedLostBytes += o.DroppedLostBytes
}

// Add adds another CPU's part.
func (t *EffectTotals) Add(o EffectTotals) {
	t.Sent += o.Sent
	t.Lost += o.Lost
	t.Unnoted += o.Unnoted
	t.Shared += o.Shared
	t.Contended += o.Contended
	t.Unwatched += o.Unwatched
}

// Add adds another CPU's totals.
func (c *CaptureTotals) Add(other CaptureTotals) {
	c.Sent += other.Sent
	c.Lost += other.Lost
	c.Refused += other.Refused
}
