package inspect

import (
	"encoding/json"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// TestDecode reads bytes by types such as bpf/abi.h has.
func TestDecode(t *testing.T) {
	u8, u16, u32, s32 := &btf.Int{Size: 1}, &btf.Int{Size: 2}, &btf.Int{Size: 4}, &btf.Int{Size: 4, Encoding: btf.Signed}
	enum := &btf.Enum{Size: 4, Values: []btf.EnumValue{{Name: "NONE", Value: 0}, {Name: "SOME", Value: 2}}}
	object := &btf.Struct{Size: 16, Members: []btf.Member{
		{Name: "be_port", Type: &btf.Typedef{Name: "__be16", Type: u16}},
		{Name: "port", Type: u16, Offset: 16},
		{Name: "count", Type: s32, Offset: 32},
		{Name: "low", Type: u8, Offset: 64, BitfieldSize: 3},
		{Name: "high", Type: u8, Offset: 67, BitfieldSize: 5},
		{Name: "mac", Type: &btf.Array{Type: u8, Nelems: 3}, Offset: 72},
		{Type: &btf.Union{Size: 4, Members: []btf.Member{{Name: "kind", Type: enum}}}, Offset: 96},
	}}
	for _, c := range []struct {
		typ  btf.Type
		data []byte
		want string
	}{
		{u32, []byte{1, 2, 0, 0}, `513`},
		{s32, []byte{0xfe, 0xff, 0xff, 0xff}, `-2`},
		{&btf.Int{Size: 1, Encoding: btf.Bool}, []byte{1}, `true`},
		{&btf.Int{Size: 16}, make([]byte, 16), `"00000000000000000000000000000000"`},
		{enum, []byte{2, 0, 0, 0}, `"SOME"`},
		{enum, []byte{3, 0, 0, 0}, `3`},
		{&btf.Array{Type: u16, Nelems: 2}, []byte{1, 0, 2, 0}, `[1,2]`},
		{u32, []byte{1, 2}, `"0102"`}, // shorter than its type: as it is
		{object, []byte{0x1f, 0x90, 0x90, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xfd, 2, 0, 1, 2, 0, 0, 0},
			`{"be_port":8080,"port":8080,"count":-1,"low":5,"high":31,"mac":"020001","kind":"SOME"}`},
	} {
		got, err := json.Marshal(decode(c.typ, c.data))
		if err != nil || string(got) != c.want {
			t.Errorf("%v of %x: %s, %v; not %s", c.typ, c.data, got, err, c.want)
		}
	}
}
