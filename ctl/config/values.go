package config

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"gardu/ctl/model"
	"gardu/ctl/rule"
	"gardu/ctl/yaml"
)

// choice is one of a few words. Those of later are words of gardu that this version lacks; one that takes an
// argument, {redirect: eth1}, is recognized as well.
func choice[T any](words []string, values []T, later ...string) kind[T] {
	allowed := strings.Join(words, ", ")
	return kind[T]{schema{"enum": words}, func(d *decoder, n, owner *yaml.Node) (value T, ok bool) {
		if m := resolve(n); m.Kind == yaml.MappingNode && len(m.Content) == 2 && slices.Contains(later, m.Content[0].Value) {
			d.unknown(m.Content[0], "value", "", words, later)
			return value, false
		}
		word, ok := d.word(n, owner, allowed)
		if !ok {
			return value, false
		}
		if i := slices.Index(words, word); i >= 0 {
			return values[i], true
		}
		d.unknown(resolve(n), "value", " for "+owner.Value, words, later)
		return value, false
	}}
}

// choiceOf is a choice whose words are the values.
func choiceOf[T ~string](values []T, later ...string) kind[T] {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = string(value)
	}
	return choice(words, values, later...)
}

var boolean = scalar("true or false", schema{"type": "boolean"}, func(word string) (bool, error) {
	switch word {
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, fmt.Errorf("%s is neither true nor false", quoted(word))
})

// whole is a whole number from lo to hi.
func whole[T ~int | ~uint16](lo, hi int) kind[T] {
	s := schema{"type": "integer", "minimum": lo, "maximum": hi}
	return scalar(fmt.Sprintf("a whole number from %d to %d", lo, hi), s, func(word string) (T, error) {
		value, err := strconv.Atoi(word)
		switch {
		case errors.Is(err, strconv.ErrSyntax) || strings.HasPrefix(word, "+"):
			return 0, fmt.Errorf("%s is not a whole number", quoted(word))
		case err != nil || value < lo || value > hi:
			return 0, fmt.Errorf("%s is out of range", shorten(word))
		}
		return T(value), nil
	})
}

// period is a duration from lo to hi, written with its unit.
func period(lo, hi time.Duration) kind[time.Duration] {
	allowed := fmt.Sprintf("%s to %s, such as 500ms, 2s, 1m30s or 1h", formatPeriod(lo), formatPeriod(hi))
	s := schema{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`}
	return scalar(allowed, s, func(word string) (time.Duration, error) {
		value, err := time.ParseDuration(word)
		if _, numberErr := strconv.ParseFloat(word, 64); err != nil && numberErr == nil {
			return 0, fmt.Errorf("%s has no unit", quoted(word))
		}
		switch {
		case err != nil:
			return 0, fmt.Errorf("%s is not a duration", quoted(word))
		case value < lo || value > hi:
			return 0, fmt.Errorf("%s is out of range", shorten(word))
		}
		return value, nil
	})
}

// formatPeriod prints a duration as people write it: 1m, not 1m0s.
func formatPeriod(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// byteSize is a number of bytes from lo to hi, written with its unit.
func byteSize(lo, hi uint64) kind[uint64] {
	allowed := fmt.Sprintf("%s to %s, such as 64kB, 100MB or 1.5GB", formatSize(lo), formatSize(hi))
	return scalar(allowed, schema{"type": "string", "pattern": `^[0-9]+(\.[0-9]+)?[kMG]?B$`}, func(word string) (uint64, error) {
		a, err := parseAmount(word)
		switch {
		case err != nil:
			return 0, err
		case !a.bytes || a.every != 1:
			return 0, fmt.Errorf("%s is not a number of bytes", quoted(word))
		case a.number < lo || a.number > hi:
			return 0, fmt.Errorf("%s is out of range", shorten(word))
		}
		return a.number, nil
	})
}

// formatSize prints a number of bytes as people write it.
func formatSize(n uint64) string {
	for _, unit := range []struct {
		text  string
		bytes uint64
	}{{"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}} {
		if n >= unit.bytes && n%unit.bytes == 0 {
			return fmt.Sprintf("%d%s", n/unit.bytes, unit.text)
		}
	}
	return fmt.Sprintf("%dB", n)
}

// hostPort is where to connect to.
var hostPort = scalar("a host and a port such as 192.0.2.1:4739, \"[2001:db8::1]:4739\" or collector.example:4739", schema{"type": "string"},
	func(word string) (string, error) {
		host, port, err := net.SplitHostPort(word)
		number, portErr := strconv.ParseUint(port, 10, 16)
		switch {
		case err != nil || portErr != nil || number == 0:
			return "", fmt.Errorf("%s is not a host and a port", quoted(word))
		case !hostRegexp.MatchString(host):
			if _, err := netip.ParseAddr(host); err != nil {
				return "", fmt.Errorf("%s is not a host", quoted(host))
			}
		}
		return word, nil
	})

var hostRegexp = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,252})$`)

// named things: rules, sets, services, backends.
const (
	namePattern = `^[a-z0-9][a-z0-9._-]{0,62}$`
	nameAllowed = "1 to 63 of a-z 0-9 . _ -, the first a letter or digit"
)

// isName tells whether a word fits namePattern; it is asked for each of very many rules.
func isName(word string) bool {
	for i, c := range []byte(word) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return len(word) >= 1 && len(word) <= 63
}

var name = scalar(nameAllowed, schema{"type": "string", "pattern": namePattern}, func(word string) (string, error) {
	if !isName(word) {
		return "", fmt.Errorf("%s is not a name", quoted(word))
	}
	return word, nil
})

// interfaceName is what Linux takes as the name of an interface.
var interfaceName = scalar("1 to 15 characters without space, / and :", schema{"type": "string", "pattern": `^[^\s/:]{1,15}$`},
	func(word string) (string, error) {
		if word == "" || len(word) > 15 || strings.ContainsAny(word, "/: \t\n\v\f\r") || word == "." || word == ".." {
			return "", fmt.Errorf("%s is not the name of an interface", quoted(word))
		}
		return word, nil
	})

// hostAddress is an address that packets can be sent to.
var hostAddress = scalar("an address of one host, such as 192.0.2.10 or 2001:db8::10", schema{"type": "string"}, parseHostAddress)

func parseHostAddress(word string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(word)
	switch {
	case err != nil:
		return addr, fmt.Errorf("%s is not an IP address", quoted(word))
	case addr.Zone() != "":
		return addr, fmt.Errorf("%s has a zone", quoted(word))
	case addr.Is4In6():
		return addr, fmt.Errorf("%s is an IPv4 address in IPv6 form; write %s", word, addr.Unmap())
	case !addr.IsGlobalUnicast():
		return addr, fmt.Errorf("%s is not the address of one host that others can reach", word)
	}
	return addr, nil
}

// The shortest prefixes that a service can have: what is shorter may hold addresses that are no host's.
const (
	servicePrefix4 = 8
	servicePrefix6 = 32
)

// serviceAddress is an address that packets can be sent to, or a prefix of such.
var serviceAddress = kind[netip.Prefix]{schema{"type": "string"}, func(d *decoder, n, owner *yaml.Node) (netip.Prefix, bool) {
	allowed := fmt.Sprintf("an address, or a prefix of IPv4 from /%d or IPv6 from /%d on, such as 192.0.2.10, 192.0.2.0/28 or 2001:db8::/64",
		servicePrefix4, servicePrefix6)
	word, ok := d.word(n, owner, allowed)
	if !ok {
		return netip.Prefix{}, false
	}
	value, err := parseServiceAddress(word)
	if err != nil {
		d.fail(d.at(resolve(n)), allowed, "%s", err)
		return value, false
	}
	d.warnHostBits(n, word, value)
	return value, true
}}

func parseServiceAddress(word string) (netip.Prefix, error) {
	if !strings.Contains(word, "/") {
		addr, err := parseHostAddress(word)
		return netip.PrefixFrom(addr, addr.BitLen()), err
	}
	value, err := rule.ParsePrefix(word)
	if err != nil {
		return value, err
	}
	shortest := servicePrefix6
	if value.Addr().Is4() {
		shortest = servicePrefix4
	}
	switch {
	case value.Bits() < shortest:
		return value, fmt.Errorf("%s has too many addresses for a service", word)
	case value.Addr().Is4In6():
		return value, fmt.Errorf("%s is an IPv4 prefix in IPv6 form", word)
	case !value.Addr().IsGlobalUnicast():
		return value, fmt.Errorf("%s has addresses of no host that others can reach", word)
	}
	return value, nil
}

// ports is a port from 1 or a range of them.
var ports = scalar("1 to 65535 or a range such as 8000-8099", portSchema(schema{"pattern": `^[0-9]+(-[0-9]+)?$`}), parsePorts)

// servicePorts is ports, or any.
var servicePorts = scalar("1 to 65535, a range such as 8000-8099, or any", portSchema(schema{"pattern": `^(any|[0-9]+(-[0-9]+)?)$`}),
	func(word string) (model.Range, error) {
		if word == "any" {
			return model.AnyPort, nil
		}
		return parsePorts(word)
	})

func portSchema(text schema) schema {
	text["type"] = "string"
	return schema{"anyOf": []schema{{"type": "integer", "minimum": 1, "maximum": 65535}, text}}
}

func parsePorts(word string) (model.Range, error) {
	r, err := rule.ParsePortRange(word)
	if err == nil && r.Lo == 0 {
		err = errors.New("no packet has port 0")
	}
	return r, err
}

// prefix is an entry of a set.
var prefix = kind[netip.Prefix]{schema{"type": "string"}, func(d *decoder, n, owner *yaml.Node) (netip.Prefix, bool) {
	const allowed = "an address or prefix such as 198.51.100.0/24 or 2001:db8::/32"
	word, ok := d.word(n, owner, allowed)
	if !ok {
		return netip.Prefix{}, false
	}
	value, err := rule.ParsePrefix(word)
	if err != nil {
		d.fail(d.at(resolve(n)), allowed, "%s", err)
		return value, false
	}
	d.warnHostBits(n, word, value)
	return value, true
}}

func (d *decoder) warnHostBits(n *yaml.Node, word string, value netip.Prefix) {
	if hasHostBits(word, value) {
		d.warn(d.at(resolve(n)), "%s has bits set behind its length; it counts as %s", word, value)
	}
}

// addressPort is an entry of a set of pairs.
var addressPort = scalar("an address and a port such as 192.0.2.1:443 or \"[2001:db8::1]:53\"", schema{"type": "string"}, parsePair)

func parsePair(word string) (netip.AddrPort, error) {
	pair, err := netip.ParseAddrPort(word)
	switch {
	case err != nil:
		return pair, fmt.Errorf("%s is not an address and a port", quoted(word))
	case pair.Addr().Zone() != "":
		return pair, fmt.Errorf("%s has a zone", quoted(word))
	case pair.Port() == 0:
		return pair, errors.New("no packet has port 0")
	}
	return pair, nil
}

// percent is a share of a whole.
var percent = scalar("0% to 100%", schema{"type": "string", "pattern": `^(100|[1-9]?[0-9])%$`}, func(word string) (int, error) {
	digits, ok := strings.CutSuffix(word, "%")
	share, err := strconv.ParseUint(digits, 10, 8)
	if !ok || err != nil || share > 100 {
		return 0, fmt.Errorf("%s is not a share", quoted(word))
	}
	return int(share), nil
})

// socketPath is where a Unix socket can be: 107 bytes are what struct sockaddr_un holds.
var socketPath = scalar("an absolute path of at most 107 bytes", schema{"type": "string", "pattern": "^/", "maxLength": 107},
	func(word string) (string, error) {
		if !filepath.IsAbs(word) || len(word) > 107 || strings.HasSuffix(word, "/") || strings.Contains(word, "\x00") {
			return "", fmt.Errorf("%s cannot be the path of a socket", quoted(word))
		}
		return filepath.Clean(word), nil
	})

// listenAddress is where the API is served by TCP.
var listenAddress = scalar("an address of this machine and a port such as 127.0.0.1:9180 or \"[::1]:9180\"", schema{"type": "string"},
	func(word string) (netip.AddrPort, error) {
		nowhere := netip.AddrPort{}
		listen, err := netip.ParseAddrPort(word)
		switch addr := listen.Addr(); {
		case err != nil:
			return nowhere, fmt.Errorf("%s is not an address and a port", quoted(word))
		case addr.Zone() != "":
			return nowhere, fmt.Errorf("%s has a zone", quoted(word))
		case addr.Is4In6():
			return nowhere, fmt.Errorf("%s is an IPv4 address in IPv6 form", word)
		case addr.IsMulticast():
			return nowhere, fmt.Errorf("%s is not an address of a machine", word)
		case listen.Port() == 0:
			return nowhere, errors.New("0 is not the port of a listener")
		}
		return listen, nil
	})

var filePath = scalar("the path of a file, relative to this one or absolute", schema{"type": "string", "minLength": 1},
	func(word string) (string, error) {
		if word == "" || strings.Contains(word, "\x00") {
			return "", fmt.Errorf("%s is not a path", quoted(word))
		}
		return word, nil
	})

// httpStatus is a status of HTTP answers or a range of them.
var httpStatus = scalar("100 to 599 or a range such as 200-399", schema{"anyOf": []schema{
	{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string", "pattern": `^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$`}}},
	func(word string) (model.Range, error) {
		from, to, isRange := strings.Cut(word, "-")
		if !isRange {
			to = from
		}
		lo, loErr := strconv.ParseUint(from, 10, 16)
		hi, hiErr := strconv.ParseUint(to, 10, 16)
		switch {
		case loErr != nil || hiErr != nil || lo < 100 || hi > 599:
			return model.Range{}, fmt.Errorf("%s is not a status of HTTP", quoted(word))
		case lo > hi:
			return model.Range{}, fmt.Errorf("%s ends before it begins", word)
		}
		return model.Range{Lo: uint32(lo), Hi: uint32(hi)}, nil
	})

// probeText is what a check sends or looks for.
var probeText = scalar("1 to 1024 bytes of text", schema{"type": "string", "minLength": 1, "maxLength": 1024}, func(word string) (string, error) {
	if word == "" || len(word) > 1024 {
		return "", fmt.Errorf("%d bytes are not what a check can use", len(word))
	}
	return word, nil
})

// domainName is a name of the DNS, in letters, digits and hyphens.
var domainName = scalar("a name such as www.example.org", schema{"type": "string", "pattern": `^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?$`, "maxLength": 253},
	func(word string) (string, error) {
		for label := range strings.SplitSeq(word, ".") {
			odd := strings.ContainsFunc(label, func(r rune) bool {
				return r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
			})
			if label == "" || len(label) > 63 || odd || label[0] == '-' || label[len(label)-1] == '-' || len(word) > 253 {
				return "", fmt.Errorf("%s is not a name of the DNS", quoted(word))
			}
		}
		return word, nil
	})

// httpHost is a host as in a URL, with a port if need be.
var httpHost = scalar("a host such as www.example.org or www.example.org:8080", schema{"type": "string", "pattern": `^[A-Za-z0-9.:_\[\]-]+$`, "maxLength": 261},
	func(word string) (string, error) {
		u, err := url.Parse("http://" + word + "/")
		if err != nil || u.Host != word || u.Hostname() == "" || len(word) > 261 {
			return "", fmt.Errorf("%s is not a host", quoted(word))
		}
		return word, nil
	})

// requestPath is the path of an HTTP request, with a query if need be.
var requestPath = scalar("a path such as /healthz", schema{"type": "string", "pattern": `^/[!-~]*$`, "maxLength": 1024},
	func(word string) (string, error) {
		visible := !strings.ContainsFunc(word, func(r rune) bool { return r < '!' || r > '~' })
		if !strings.HasPrefix(word, "/") || !visible || len(word) > 1024 {
			return "", fmt.Errorf("%s is not the path of an HTTP request", quoted(word))
		}
		return word, nil
	})

// serverID is read from hex into its bytes.
var serverID = scalar("1 to 15 bytes in hex, such as \"0a00010b\"", schema{"type": "string", "pattern": "^([0-9a-fA-F]{2}){1,15}$"},
	func(word string) (string, error) {
		id, err := hex.DecodeString(word)
		if err != nil || len(id) == 0 || len(id) > 15 {
			return "", fmt.Errorf("%s is not a server ID", quoted(word))
		}
		return string(id), nil
	})

const ringMin, ringMax = 251, 1048573

// ringSize is a prime, so that every step walks all slots.
var ringSize = scalar(fmt.Sprintf("a prime from %d to %d, such as 65537", ringMin, ringMax),
	schema{"type": "integer", "minimum": ringMin, "maximum": ringMax}, func(word string) (int, error) {
		size, err := strconv.Atoi(word)
		switch {
		case err != nil:
			return 0, fmt.Errorf("%s is not a whole number", quoted(word))
		case size < ringMin || size > ringMax:
			return 0, fmt.Errorf("%d is out of range", size)
		case !isPrime(size):
			return 0, fmt.Errorf("%d is not a prime; the next one is %d", size, nextPrime(size))
		}
		return size, nil
	})

func isPrime(n int) bool { return big.NewInt(int64(n)).ProbablyPrime(0) } // exact below 2^64

func nextPrime(n int) int {
	for !isPrime(n) { // ringMax is one
		n++
	}
	return n
}
