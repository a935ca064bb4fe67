package expr

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

func TestGroup(t *testing.T) {
	six := sample()
	six.Src, six.Dst = netip.MustParseAddr("2001:db8:1:2:3::7"), netip.MustParseAddr("::ffff:192.0.2.10")
	for _, c := range []struct {
		text       string
		flow       *Flow
		want       []string
		normalized string
	}{
		{"src", sample(), []string{"198.51.100.7"}, "src"},
		{"src/24", sample(), []string{"198.51.100.0/24"}, "src/24"},
		{"src/32", sample(), []string{"198.51.100.7"}, "src/32"},
		{"src/32", six, []string{"2001:db8:1:2::/64"}, "src/32"},
		{"src/24,dst", six, []string{"2001:db8:1::/48", "192.0.2.10"}, "src/24,dst"},
		{" dst/8 , service", sample(), []string{"192.0.0.0/8", "web"}, "dst/8,service"},
		{"sport,dport,proto,vlan", sample(), []string{"40000", "443", "tcp", "12"}, "sport,dport,proto,vlan"},
		{"interface,verdict,reason,rule,service,backend", sample(), []string{"eth0", "forward", "forward", "", "web", "b1"},
			"interface,verdict,reason,rule,service,backend"},
		{"proto,src", &Flow{Proto: 200}, []string{"200", ""}, "proto,src"},
	} {
		keys, err := ParseGroup(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		group := keys.Of(c.flow)
		var got []string
		for _, key := range keys {
			got = append(got, key.Value(&group))
		}
		if !slices.Equal(got, c.want) || keys.String() != c.normalized {
			t.Errorf("%s: %v is %q, want %q", c.text, keys, got, c.want)
		}
	}
}

// Flows of one group are equal in it, and what isn't asked for doesn't tell them apart.
func TestGroupsAreComparable(t *testing.T) {
	a, b := sample(), sample()
	b.Src, b.Sport, b.Rule = netip.MustParseAddr("198.51.100.200"), 1, "other"
	keys, err := ParseGroup("src/24,dport")
	if err != nil {
		t.Fatal(err)
	}
	if keys.Of(a) != keys.Of(b) {
		t.Errorf("%+v and %+v", keys.Of(a), keys.Of(b))
	}
	b.Dport = 80
	if keys.Of(a) == keys.Of(b) {
		t.Errorf("the port doesn't tell %+v apart", keys.Of(a))
	}
}

func TestGroupErrors(t *testing.T) {
	for _, c := range []struct {
		text    string
		offset  int
		message string
	}{
		{"", 0, "a key is missing"},
		{"src,", 4, "a key is missing"},
		{"src,,dst", 4, "a key is missing"},
		{"src, host", 5, `"host" is not a key to group by`},
		{"src,\x01", 4, `"\x01" is not a key to group by`},
		{"src/24,src", 7, "src is there twice"},
		{"src/0", 0, `"0" is not a number of bits`},
		{"src/08", 0, `"08" is not a number of bits`},
		{"src/+8", 0, `"+8" is not a number of bits`},
		{"src/33", 0, `"33" is not a number of bits`},
		{"dst/", 0, `"" is not a number of bits`},
		{"dst/24/48", 0, `"24/48" is not a number of bits`},
		{"proto,dport/8", 6, "dport has no prefix"},
		{strings.Repeat("x", 5000), 40, "the list of keys is longer than 4096 bytes"},
	} {
		_, err := ParseGroup(c.text)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Offset != c.offset || e.Message != c.message || strings.Contains(e.Text, "\x01") {
			t.Errorf("%q: got %v, want %q at %d", c.text, err, c.message, c.offset)
		}
	}
	_, err := ParseGroup("src,sevice")
	want := `"sevice" is not a key to group by
  src,sevice
      ^
allowed here: src, src/N, dst, dst/N, sport, dport, proto, vlan, interface, verdict, reason, rule, service, backend`
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
}

// Every key has a value for the sample, except the rule, which it has none of; its group holds nothing else.
func TestGroupNames(t *testing.T) {
	for _, name := range GroupNames() {
		key := GroupKey{Name: name}
		group := GroupKeys{key}.Of(sample())
		if (key.Value(&group) == "") != (name == "rule") {
			t.Errorf("%s: %q", name, key.Value(&group))
		}
		for _, other := range GroupNames() {
			key := GroupKey{Name: other}
			if other != name && !slices.Contains([]string{"", "0"}, key.Value(&group)) {
				t.Errorf("the group by %s has the %s %q", name, other, key.Value(&group))
			}
		}
	}
}

// Whatever the text, ParseGroup gives keys that read back as they are, or an error that points into the text.
func FuzzParseGroup(f *testing.F) {
	f.Add("src/24,service")
	f.Add(" dst , proto,,")
	f.Add("src/\x00")
	f.Fuzz(func(t *testing.T, text string) {
		keys, err := ParseGroup(text)
		if err == nil {
			again, err := ParseGroup(keys.String())
			if err != nil || !slices.Equal(keys, again) {
				t.Fatalf("%q reads as %v, and that as %v (%v)", text, keys, again, err)
			}
			keys.Of(sample())
			return
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Offset < 0 || e.Offset > len(e.Text) || e.Error() == "" {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
