package config

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestBadExports(t *testing.T) {
	const place = "exactly one of ipfix, file, kafka"
	for _, tc := range []struct{ export, msg, allowed string }{
		{"[{}]", "an export goes to one place, not to 0", place},
		{"[{ipfix: 192.0.2.1:4739, file: a}]", "an export goes to one place, not to 2", place},
		{"[192.0.2.1:4739]", "a single value stands where a mapping belongs", "the keys ipfix"},
		{"{ipfix: 192.0.2.1:4739}", "a mapping stands where a list belongs", "a list of places"},
		{"[{ipfix: 192.0.2.1}]", `"192.0.2.1" is not a host and a port`, "4739"},
		{"[{ipfix: 192.0.2.1:0}]", `"192.0.2.1:0" is not a host and a port`, "4739"},
		{"[{ipfix: 192.0.2.1:netflow}]", "is not a host and a port", "4739"},
		{`[{ipfix: ":4739"}]`, `"" is not a host`, "4739"},
		{`[{ipfix: "a b:4739"}]`, `"a b" is not a host`, "4739"},
		{`[{ipfix: "2001:db8::1:4739"}]`, "is not a host and a port", `"[2001:db8::1]:4739"`},
		{"[{ipfix: 192.0.2.1:4739, transport: sctp}]", `unknown value "sctp" for transport`, "udp, tcp"},
		{"[{ipfix: 192.0.2.1:4739, refresh: 1ms}]", "1ms is out of range", "1s to 1h"},
		{"[{ipfix: 192.0.2.1:4739, domain: 4294967296}]", "4294967296 is out of range", "4294967295"},
		{"[{ipfix: 192.0.2.1:4739, format: csv}]", "format belongs to an export with file", ""},
		{"[{ipfix: 192.0.2.1:4739, rotate: {keep: 1}}]", "rotate belongs to an export with file", ""},
		{"[{file: a, transport: tcp}]", "transport belongs to an export with ipfix", ""},
		{`[{file: ""}]`, `"" is not a path`, "path of a file"},
		{"[{file: a, format: xml}]", `unknown value "xml" for format`, "ndjson, csv"},
		{"[{file: a, rotate: {size: 100}}]", `"100" is not a number of bytes`, "1kB to 1000GB"},
		{"[{file: a, rotate: {size: 100Mbit}}]", `"100Mbit" is not a number of bytes`, "1kB to 1000GB"},
		{"[{file: a, rotate: {size: 999B}}]", "999B is out of range", "1kB to 1000GB"},
		{"[{file: a, rotate: {age: 1s}}]", "1s is out of range", "1m to 8760h"},
		{"[{file: a, rotate: {keep: -1}}]", "-1 is out of range", "0 to 10000"},
		{"[{file: a}, {file: ./b/../a, format: csv}]", "is exported to twice; the first is in line 2", ""},
		{"[{kafka: 192.0.2.1:9092}]", "a single value stands where a list belongs", "a list of brokers"},
		{"[{kafka: []}]", "the list is empty", "a list of brokers"},
		{"[{kafka: [192.0.2.1]}]", `"192.0.2.1" is not a host and a port`, "4739"},
		{"[{kafka: [192.0.2.1:9092], topic: a/b}]", `"a/b" is not the name of a topic`, "249"},
		{"[{kafka: [192.0.2.1:9092], format: csv}]", "format belongs to an export with file", ""},
		{"[{file: a, topic: b}]", "topic belongs to an export with kafka", ""},
		{"[{kafka: [192.0.2.1:9092]}, {kafka: [192.0.2.1:9092]}]", "kafka gardu-flows at 192.0.2.1:9092 is exported to twice", ""},
		{"[{kafka: [192.0.2.1:9092], login: {user: a}}]", "login needs the key password-file", "the file with the password"},
		{"[{kafka: [192.0.2.1:9092], login: {user: a, password: b, password-file: c}}]", `unknown key "password"`, "password-file"},
		{"[{kafka: [192.0.2.1:9092], tls: {cert: a}}]", "a certificate goes with its key", "both, or none"},
		{"[{file: a, tls: {}}]", "tls belongs to an export with kafka", ""},
		{"[{fiel: a}]", `unknown key "fiel" in an export; did you mean file?`, "ipfix"},
	} {
		_, _, err := Parse("gardu.yaml", []byte("flows:\n  export: "+tc.export+"\n"), t.TempDir())
		wrong, ok := errors.AsType[Errors](err)
		if !ok || len(wrong) != 1 {
			t.Errorf("%s: not one error but %v", tc.export, err)
			continue
		}
		if one := wrong[0]; !strings.Contains(one.Msg, tc.msg) || !strings.Contains(one.Allowed, tc.allowed) || one.Pos.Line != 2 || one.Line == "" {
			t.Errorf("%s:\n%v\nwant %s\nallowed %s", tc.export, one, tc.msg, tc.allowed)
		}
	}
}

func TestExportFilesAreBesideTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	snapshot, _, err := Parse("gardu.yaml", []byte("flows: {export: [{file: out/flows.ndjson}]}"), dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := snapshot.Flows.Export[0].File, filepath.Join(dir, "out/flows.ndjson"); got != want {
		t.Errorf("the file is %s, want %s", got, want)
	}
}

// Secrets are files beside the configuration, and one that travels in the clear is warned about.
func TestKafkaSecrets(t *testing.T) {
	dir := t.TempDir()
	const clear = "interfaces: {eth0: {}}\nflows: {export: [{kafka: [192.0.2.1:9092], login: {mechanism: plain, user: a, password-file: b}}]}"
	snapshot, warnings, err := Parse("gardu.yaml", []byte(clear), dir)
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0].Msg, "plain without tls") {
		t.Fatalf("%v, %v", warnings, err)
	}
	if e := snapshot.Flows.Export[0]; e.Login.PasswordFile != filepath.Join(dir, "b") || e.TLS.On {
		t.Errorf("%+v", e)
	}
	secure := strings.Replace(clear, "login: {mechanism: plain,", "tls: {}, login: {", 1)
	snapshot, warnings, err = Parse("gardu.yaml", []byte(secure), dir)
	if err != nil || len(warnings) != 0 {
		t.Fatalf("%v, %v", warnings, err)
	}
	if e := snapshot.Flows.Export[0]; !e.TLS.On || e.Login.Mechanism != "scram-sha-512" {
		t.Errorf("%+v", e)
	}
}
