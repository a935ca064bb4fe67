package rule

import (
	"os"
	"regexp"
	"slices"
	"testing"

	"gardu/ctl/abi"
)

// TestFieldsMatchC holds Fields and bpf/fields.h together, row by row.
func TestFieldsMatchC(t *testing.T) {
	source, err := os.ReadFile("../../bpf/fields.h")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile(`X\([A-Z_]+, "([a-z-]+)", (ADDR|NUMBER|FLAGS|MAC|THING), ([01])\)`).FindAllSubmatch(source, -1)
	if len(rows) != int(abi.FieldCount) || len(Fields) != int(abi.FieldCount) {
		t.Fatalf("fields.h has %d rows, abi %d, Fields %d", len(rows), abi.FieldCount, len(Fields))
	}
	kinds := map[Kind]string{Address: "ADDR", Number: "NUMBER", Flags: "FLAGS", MAC: "MAC", Thing: "THING"}
	for i, row := range rows {
		field := Fields[i]
		if string(field.Name) != string(row[1]) || kinds[field.Kind] != string(row[2]) || field.Key != (string(row[3]) == "1") {
			t.Errorf("row %d is %s in fields.h and %+v in Fields", i, row[0], field)
		}
	}
}

func TestFieldsAreComplete(t *testing.T) {
	for _, field := range Fields {
		if field.Help == "" {
			t.Errorf("%s has no help", field.Name)
		}
		if (field.Kind == Number || field.Kind == Flags) != (field.Max != 0) {
			t.Errorf("%s: numbers and flags need a Max, others have none", field.Name)
		}
		if (field.Kind == Thing) != (field.Refer != "") {
			t.Errorf("%s: names need to say what of, others don't", field.Name)
		}
		if (field.Kind == Address) != (field.Sets == AddressSet) {
			t.Errorf("%s: sets of addresses belong to address fields", field.Name)
		}
		var texts []string
		for _, name := range field.Names {
			if name.Value > field.Max {
				t.Errorf("%s: %s is %d, above %d", field.Name, name.Text, name.Value, field.Max)
			}
			texts = append(texts, name.Text)
		}
		for _, span := range field.Spans {
			if span.Values.Hi > field.Max {
				t.Errorf("%s: %s goes up to %d, above %d", field.Name, span.Text, span.Values.Hi, field.Max)
			}
			texts = append(texts, span.Text)
		}
		slices.Sort(texts)
		if len(slices.Compact(texts)) != len(field.Names)+len(field.Spans) {
			t.Errorf("%s: a name occurs twice", field.Name)
		}
	}
}

func TestProtocolNames(t *testing.T) {
	for _, proto := range protocols {
		if got, ok := Protocol(proto.Text); !ok || uint32(got) != proto.Value {
			t.Errorf("Protocol(%q) = %d, %v", proto.Text, got, ok)
		}
		if got := ProtocolName(uint8(proto.Value)); got != proto.Text {
			t.Errorf("ProtocolName(%d) = %q, want %q", proto.Value, got, proto.Text)
		}
	}
	if _, ok := Protocol("carrier-pigeon"); ok {
		t.Error("carrier-pigeon is a protocol")
	}
	if got := ProtocolName(253); got != "253" {
		t.Errorf("ProtocolName(253) = %q", got)
	}
}
