package inspect

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// decode turns the bytes of a value into numbers, names of an enum, objects and lists, by its type. Bytes that are no numbers
// are hex. Members of a struct keep their order.
func decode(t btf.Type, data []byte) any {
	t = btf.UnderlyingType(t)
	if size, err := btf.Sizeof(t); err != nil || size > len(data) {
		return hex.EncodeToString(data)
	}
	switch t := t.(type) {
	case *btf.Int:
		return integer(t, data, false)
	case *btf.Enum:
		return enumerator(t, data)
	case *btf.Array:
		return array(t, data)
	case *btf.Struct:
		return members(t.Members, data)
	case *btf.Union:
		return members(t.Members, data)
	}
	return hex.EncodeToString(data)
}

func integer(t *btf.Int, data []byte, network bool) any {
	if t.Encoding == btf.Bool {
		return data[0] != 0
	}
	order := binary.ByteOrder(binary.NativeEndian)
	if network {
		order = binary.BigEndian
	}
	var n uint64
	switch t.Size {
	case 1:
		n = uint64(data[0])
	case 2:
		n = uint64(order.Uint16(data))
	case 4:
		n = uint64(order.Uint32(data))
	case 8:
		n = order.Uint64(data)
	default:
		return hex.EncodeToString(data[:t.Size])
	}
	if t.Encoding != btf.Signed {
		return n
	}
	unused := 64 - 8*t.Size
	return int64(n<<unused) >> unused
}

func enumerator(t *btf.Enum, data []byte) any {
	n := integer(&btf.Int{Size: t.Size}, data, false)
	for _, value := range t.Values {
		if value.Value == n {
			return value.Name
		}
	}
	return n
}

func array(t *btf.Array, data []byte) any {
	size, _ := btf.Sizeof(t.Type) // decode asked for the whole
	if size == 1 {
		return hex.EncodeToString(data[:t.Nelems])
	}
	list := make([]any, t.Nelems)
	for i := range list {
		list[i] = decode(t.Type, data[i*size:])
	}
	return list
}

func members(list []btf.Member, data []byte) any {
	var o Object
	for _, m := range list {
		at := int(m.Offset.Bytes())
		value := decode(m.Type, data[at:])
		if t, ok := btf.UnderlyingType(m.Type).(*btf.Int); ok {
			switch {
			case m.BitfieldSize > 0:
				value = bitfield(m, data)
			case strings.HasPrefix(m.Name, "be_"): // in network byte order, as bpf/abi.h names it
				value = integer(t, data[at:], true)
			}
		}
		if m.Name == "" { // an anonymous struct or union: its members are the outer one's
			if inner, ok := value.(Object); ok {
				o = append(o, inner...)
				continue
			}
		}
		o = append(o, Member{m.Name, value})
	}
	return o
}

func bitfield(m btf.Member, data []byte) uint64 {
	var word [8]byte
	copy(word[:], data[m.Offset/8:])
	return binary.LittleEndian.Uint64(word[:]) >> (m.Offset % 8) & (1<<m.BitfieldSize - 1)
}

// Member is a named value of an Object.
type Member struct {
	Name  string
	Value any
}

// Object is a struct: its JSON has the members in their order.
type Object []Member

// MarshalJSON writes it as an object.
func (o Object) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		value, err := marshal(m.Value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", m.Name, value)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}
