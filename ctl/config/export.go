package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"gardu/ctl/model"
)

var exports = object[model.Export]{
	what: "an export",
	pos:  func(e *model.Export) *model.Position { return &e.Pos },
	keys: []key[model.Export]{
		in("ipfix", hostPort, func(e *model.Export) *string { return &e.IPFIX },
			"an IPFIX collector, host and port"),
		in("transport", choiceOf([]model.Transport{model.UDP, model.TCP}), func(e *model.Export) *model.Transport { return &e.Transport },
			"what carries IPFIX messages").or("udp"),
		in("refresh", period(time.Second, time.Hour), func(e *model.Export) *time.Duration { return &e.Refresh },
			"how often a collector is told the templates and names again over UDP, 1s to 1h").or("1m"),
		in("domain", as(whole[int](0, 1<<32-1), func(n int) uint32 { return uint32(n) }), func(e *model.Export) *uint32 { return &e.Domain },
			"the IPFIX observation domain, 0 to 4294967295: tells exporters behind one address apart").or("1"),
		in("file", filePath, func(e *model.Export) *string { return &e.File },
			"a file that a line is appended to for each report, relative to this one or absolute"),
		in("format", choiceOf([]model.LineFormat{model.NDJSON, model.CSV}), func(e *model.Export) *model.LineFormat { return &e.Format },
			"how lines are written: JSON objects, or comma-separated values below a header").or("ndjson"),
		in("rotate", rotates.kind(), func(e *model.Export) *model.Rotate { return &e.Rotate },
			"when a file is put aside and a new one begun").orDefaults(),
		in("kafka", list(hostPort, false, "a list of brokers, host and port"), func(e *model.Export) *[]string { return &e.Kafka },
			"brokers of a Kafka cluster, host and port; one is enough to find the others"),
		in("topic", topic, func(e *model.Export) *string { return &e.Topic },
			"the topic that a record is sent to for each report, a JSON object").or("gardu-flows"),
		in("tls", as(tlsKeys.kind(), func(t model.TLS) model.TLS { t.On = true; return t }), func(e *model.Export) *model.TLS { return &e.TLS },
			"connect to brokers by TLS; {} will do"),
		in("login", logins.kind(), func(e *model.Export) *model.Login { return &e.Login },
			"log in to brokers by SASL"),
	},
}

var tlsKeys = object[model.TLS]{
	what: "tls",
	keys: []key[model.TLS]{
		in("ca", filePath, func(t *model.TLS) *string { return &t.CA },
			"a file of the authorities that are trusted, PEM; default: those that this machine trusts"),
		in("cert", filePath, func(t *model.TLS) *string { return &t.Cert },
			"a file with a certificate to show, PEM; read again for each connection"),
		in("key", filePath, func(t *model.TLS) *string { return &t.Key },
			"and the file with its key"),
		in("name", domainName, func(t *model.TLS) *string { return &t.Name },
			"the name that the other side's certificate must be for; default: the host as written"),
	},
}

var logins = object[model.Login]{
	what: "login",
	keys: []key[model.Login]{
		in("mechanism", choiceOf([]model.Mechanism{model.ScramSHA512, model.ScramSHA256, model.Plain}), func(l *model.Login) *model.Mechanism { return &l.Mechanism },
			"how the password is proved; plain sends it").or("scram-sha-512"),
		in("user", probeText, func(l *model.Login) *string { return &l.User },
			"who logs in").must(),
		in("password-file", filePath, func(l *model.Login) *string { return &l.PasswordFile },
			"the file with the password; read again for each connection").must(),
	},
}

// topic is what Kafka takes as the name of a topic.
var topic = scalar("1 to 249 of a-z A-Z 0-9 . _ -", schema{"type": "string", "pattern": topicRegexp.String()}, func(word string) (string, error) {
	if !topicRegexp.MatchString(word) || word == "." || word == ".." {
		return "", fmt.Errorf("%s is not the name of a topic", quoted(word))
	}
	return word, nil
})

var topicRegexp = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,249}$`)

var rotates = object[model.Rotate]{
	what: "rotate",
	keys: []key[model.Rotate]{
		in("size", byteSize(1e3, 1e12), func(r *model.Rotate) *uint64 { return &r.Size },
			"a file is put aside before it is larger than this, 1kB to 1000GB").or("100MB"),
		in("age", period(time.Minute, 8760*time.Hour), func(r *model.Rotate) *time.Duration { return &r.Age },
			"a file is put aside when it is older than this, 1m to 8760h").or("24h"),
		in("keep", whole[int](0, 10000), func(r *model.Rotate) *int { return &r.Keep },
			"so many files put aside are kept, 0 to 10000; older ones are deleted").or("10"),
	},
}

// exportKinds are the keys of which an export has exactly one, and those that belong to each.
var exportKinds = []struct {
	name    string
	given   func(model.Export) bool
	belongs []string
}{
	{"ipfix", func(e model.Export) bool { return e.IPFIX != "" }, []string{"transport", "refresh", "domain"}},
	{"file", func(e model.Export) bool { return e.File != "" }, []string{"format", "rotate"}},
	{"kafka", func(e model.Export) bool { return e.Kafka != nil }, []string{"topic", "tls", "login"}},
}

// checkExports makes sure that an export is one thing, and that no two go to the same place.
func (d *decoder) checkExports(exports []model.Export) {
	places := map[string]model.Position{}
	for i := range exports {
		e := &exports[i]
		if d.broken[e.Pos] {
			continue
		}
		var given []string
		for _, kind := range exportKinds {
			if kind.given(*e) {
				given = append(given, kind.name)
			}
		}
		if len(given) != 1 {
			d.fail(e.Pos, "exactly one of "+exportNames(), "an export goes to one place, not to %d", len(given))
			continue
		}
		d.checkBelongings(e, given[0])
		d.checkSecrets(e)
		if e.File != "" {
			e.File = absolute(d.dir, e.File)
		}
		place := given[0] + " " + e.IPFIX + e.File
		if e.Kafka != nil {
			place += e.Topic + " at " + strings.Join(e.Kafka, ", ")
		}
		if first, twice := places[place]; twice {
			d.fail(d.valueAt(e.Pos, given[0]), "", "%s is exported to twice; the first is in line %d", place, d.valueAt(first, given[0]).Line)
		}
		places[place] = e.Pos
	}
}

// checkSecrets looks at how an export connects.
func (d *decoder) checkSecrets(e *model.Export) {
	if (e.TLS.Cert == "") != (e.TLS.Key == "") {
		d.fail(d.valueAt(e.Pos, "tls"), "both, or none", "a certificate goes with its key")
	}
	if e.Login.Mechanism == model.Plain && !e.TLS.On {
		d.warn(d.valueAt(e.Pos, "login"), "the password is sent for everybody on the way to read: plain without tls")
	}
	for _, file := range []*string{&e.TLS.CA, &e.TLS.Cert, &e.TLS.Key, &e.Login.PasswordFile} {
		if *file != "" {
			*file = absolute(d.dir, *file)
		}
	}
}

func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}

func exportNames() string {
	var names []string
	for _, kind := range exportKinds {
		names = append(names, kind.name)
	}
	return strings.Join(names, ", ")
}

// checkBelongings refuses keys of other kinds of export, and forgets their defaults.
func (d *decoder) checkBelongings(e *model.Export, is string) {
	for _, kind := range exportKinds {
		if kind.name == is {
			continue
		}
		for _, name := range kind.belongs {
			if at := d.valueAt(e.Pos, name); at != e.Pos {
				d.fail(at, "", "%s belongs to an export with %s", name, kind.name)
			}
		}
	}
	if is != "ipfix" {
		e.Transport, e.Refresh, e.Domain = "", 0, 0
	}
	if is != "file" {
		e.Format, e.Rotate = "", model.Rotate{}
	}
	if is != "kafka" {
		e.Topic = ""
	}
}
