package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/model"
	"gardu/ctl/yaml"
)

// limits is the key `limit` of a rule.
var limits = object[limit]{
	what: "a limit",
	pos:  func(l *limit) *model.Position { return &l.Pos },
	keys: []key[limit]{
		in("rate", rate, func(l *limit) *amount { return &l.rate },
			"packets or bytes of IP in a time: 10000/s, 64k/m, 10MB/s, 100Mbit/s").must(),
		in("burst", burst, func(l *limit) *amount { return &l.burst },
			"what may come at once, in the unit of rate; default: what comes in a second, at least 1 packet or 15000 bytes"),
		in("per", per, func(l *limit) *model.Per { return &l.Per },
			"what is limited by itself: all rules that say all with the same rate and burst, a rule, src, src/N, dst, dst/N, service, flow").or("rule"),
	},
}

// limit is a limit as it is written.
type limit struct {
	model.Limit
	rate, burst amount
}

// amount is a number of packets or bytes, in a time when it is a rate.
type amount struct {
	number uint64 // 0: not given
	bytes  bool
	every  time.Duration
}

// longestBurst is how long a whole burst may take to come: the data plane tells no later times from earlier ones.
const longestBurst = time.Hour

// least is the burst of a slow rate.
const (
	leastPackets = 1
	leastBytes   = 15000 // ten packets of full size
)

// ruleLimit reads a limit and checks what a key alone can't know.
var ruleLimit = kind[*model.Limit]{limits.schema(), func(d *decoder, n, owner *yaml.Node) (*model.Limit, bool) {
	l, ok := limits.read(d, n, owner)
	if !ok {
		return nil, false
	}
	l.Rate, l.Every, l.Bytes, l.Burst = l.rate.number, l.rate.every, l.rate.bytes, l.burst.number
	at := d.valueAt(l.Pos, "burst")
	switch {
	case l.Burst == 0:
		least := uint64(leastPackets)
		if l.Bytes {
			least = leastBytes
		}
		l.Burst = max(least, uint64(float64(l.Rate)*float64(time.Second)/float64(l.Every)))
	case l.Bytes && !l.burst.bytes:
		d.fail(at, "a number of bytes such as 64kB", "the rate is in bytes and the burst is in packets")
		return nil, false
	case !l.Bytes && l.burst.bytes:
		d.fail(at, "a number of packets such as 20000", "the rate is in packets and the burst is in bytes")
		return nil, false
	}
	if takes := float64(l.Burst) * float64(l.Every) / float64(l.Rate); takes > float64(longestBurst) {
		d.fail(at, "", "at this rate a burst of %d takes longer than an hour to come", l.Burst)
		return nil, false
	}
	return &l.Limit, true
}}

const (
	maxPacketRate = 1e8 // a second: the data plane counts time in quarters of a ns
	maxByteRate   = 1e11
)

var rateRegexp = regexp.MustCompile(`^([^/]+)/(s|m|h)$`)

var rate = scalar("a number of packets, or bytes with a unit, and s, m or h: 10000/s, 64k/m, 10MB/s, 100Mbit/s", schema{"type": "string"},
	func(word string) (amount, error) {
		parts := rateRegexp.FindStringSubmatch(word)
		if parts == nil {
			return amount{}, fmt.Errorf("%s is not a rate", quoted(word))
		}
		a, err := parseAmount(parts[1])
		if err != nil {
			return a, err
		}
		a.every *= map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[parts[2]]
		second := float64(a.number) * float64(time.Second) / float64(a.every)
		if !a.bytes && second > maxPacketRate || a.bytes && second > maxByteRate {
			return a, fmt.Errorf("%s is more than 100M packets or 100GB a second", quoted(word))
		}
		return a, nil
	})

var burst = scalar("a number of packets such as 20000 or 20k, or of bytes such as 64kB", schema{"type": []string{"integer", "string"}}, parseAmount)

// amountUnits are what may follow a number, longest first: the factor, in bits for bytes.
var amountUnits = []struct {
	text  string
	times float64
	bits  uint64 // a unit; 0: packets
}{
	{"Gbit", 1e9, 1}, {"Mbit", 1e6, 1}, {"kbit", 1e3, 1}, {"bit", 1, 1},
	{"GB", 1e9, 8}, {"MB", 1e6, 8}, {"kB", 1e3, 8}, {"B", 1, 8},
	{"G", 1e9, 0}, {"M", 1e6, 0}, {"k", 1e3, 0}, {"", 1, 0},
}

// parseAmount reads a number with a unit. Bits become bytes in eight times the time, which loses nothing of a rate.
func parseAmount(word string) (amount, error) {
	for _, unit := range amountUnits {
		digits, found := strings.CutSuffix(word, unit.text)
		if !found {
			continue
		}
		number, err := strconv.ParseFloat(digits, 64)
		if err != nil || strings.ContainsAny(digits, "eExXpP_+-") || math.IsNaN(number) {
			return amount{}, fmt.Errorf("%s is not a number with a unit", quoted(word))
		}
		number *= unit.times
		if number < 1 || number > 1e15 || number != math.Trunc(number) {
			return amount{}, fmt.Errorf("%s is not a whole number of at least 1", quoted(word))
		}
		every := time.Duration(1)
		if unit.bits == 1 {
			every = 8
		}
		return amount{number: uint64(number), bytes: unit.bits != 0, every: every}, nil
	}
	return amount{}, fmt.Errorf("%s is not a number", quoted(word))
}

var per = scalar("all, rule, src, src/N, dst, dst/N, service or flow, with N from 1 to 32: bits of an IPv4 address; of IPv6 twice as many",
	schema{"type": "string", "pattern": `^(all|rule|service|flow|(src|dst)(/([1-9]|[12][0-9]|3[0-2]))?)$`},
	func(word string) (model.Per, error) {
		what, bits, prefix := strings.Cut(word, "/")
		p := model.Per{What: model.PerWhat(what)}
		switch p.What {
		case model.PerSource, model.PerDest:
			p.Bits = [2]int{32, 128}
			if !prefix {
				return p, nil
			}
			n, err := strconv.Atoi(bits)
			if err != nil || n < 1 || n > 32 {
				return p, fmt.Errorf("%s is not a number of bits", quoted(bits))
			}
			p.Bits = [2]int{n, 2 * n}
			return p, nil
		case model.PerAll, model.PerRule, model.PerService, model.PerFlow:
			if !prefix {
				return p, nil
			}
		}
		return p, fmt.Errorf("%s is nothing that a limit can be per", quoted(word))
	})

// oneOf is 1/N: one packet of so many.
var oneOf = scalar("1/N, one packet of N, N from 1 to 1000000000", schema{"type": "string", "pattern": `^1/[1-9][0-9]{0,9}$`},
	func(word string) (uint32, error) {
		digits, found := strings.CutPrefix(word, "1/")
		n, err := strconv.ParseUint(digits, 10, 32)
		if !found || err != nil || n < 1 || n > 1e9 {
			return 0, fmt.Errorf("%s is not one packet of so many", quoted(word))
		}
		return uint32(n), nil
	})
