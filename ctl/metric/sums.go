package metric

// sums makes counters of what is added up from others. Such a number can go down, which Prometheus takes for a restart from
// zero: it would count all of it a second time.
type sums struct {
	told    map[string]sum // in the scrape before this one
	telling map[string]sum
}

type sum struct{ told, value uint64 }

// begin begins a scrape. What the one before didn't tell is forgotten.
func (s *sums) begin() { s.told, s.telling = s.telling, make(map[string]sum, len(s.telling)) }

// fail ends a scrape that didn't come to its end: what it didn't tell isn't forgotten.
func (s *sums) fail() {
	for key, was := range s.told {
		if _, ok := s.telling[key]; !ok {
			s.telling[key] = was
		}
	}
}

// parts is for a sum whose parts come and go with the configuration: a part that goes doesn't take back what it counted.
func (s *sums) parts(key string, value uint64) uint64 {
	was, known := s.told[key]
	next := sum{value, value}
	if known {
		next.told = was.told + value - min(value, was.value)
	}
	s.telling[key] = next
	return next.told
}

// difference is for one of numbers that are read one after the other while packets go on: it stays until it has caught up.
func (s *sums) difference(key string, value uint64) uint64 {
	value = max(value, s.told[key].told)
	s.telling[key] = sum{told: value}
	return value
}
