package lint

import (
	"testing"

	"gardu/ctl/config"
	"gardu/ctl/model"
)

func TestSharedPorts(t *testing.T) {
	text := []byte(`interfaces: {eth0: }
services:
  a: {address: 192.0.2.1, port: 80, proto: tcp, forward: nat, backends: [{name: b, address: 10.0.0.1}]}
  b: {address: 192.0.2.2, port: 80, proto: tcp, forward: nat, nat: {ports: 1024-32768}, backends: [{name: b, address: 10.0.0.1}]}
  c: {address: 192.0.2.3, port: 80, proto: tcp, forward: nat, nat: {ports: 60999}, backends: [{name: b, address: 10.0.0.1}]}
  d: {address: 192.0.2.4, port: 80, proto: tcp, forward: nat, nat: {ports: 61000-65535}, backends: [{name: b, address: 10.0.0.1}]}
`)
	snapshot, _, err := config.Parse("gardu.yaml", text, ".")
	if err != nil {
		t.Fatal(err)
	}
	warnings := SharedPorts(snapshot, model.Range{Lo: 32768, Hi: 60999}, text)
	if len(warnings) != 2 || warnings[0].Pos.Line != 4 || warnings[1].Pos.Line != 5 {
		t.Errorf("%v", warnings)
	}
	if warnings := SharedPorts(snapshot, model.Range{}, text); warnings != nil {
		t.Errorf("without knowing: %v", warnings)
	}
	if local := LocalPorts(); local.Lo == 0 || local.Hi < local.Lo {
		t.Errorf("this machine's: %v", local)
	}
}
