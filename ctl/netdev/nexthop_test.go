package netdev

import (
	"testing"

	"github.com/vishvananda/netlink"
)

func TestTagOf(t *testing.T) {
	attrs := netlink.LinkAttrs{Index: 7, ParentIndex: 3}
	for _, test := range []struct {
		name   string
		link   netlink.Link
		parent int
		id     uint16
	}{
		{"802.1Q", &netlink.Vlan{LinkAttrs: attrs, VlanId: 20, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}, 3, 20},
		{"802.1ad", &netlink.Vlan{LinkAttrs: attrs, VlanId: 20, VlanProtocol: netlink.VLAN_PROTOCOL_8021AD}, 0, 0},
		{"veth", &netlink.Veth{LinkAttrs: attrs}, 0, 0},
	} {
		if parent, id := tagOf(test.link); parent != test.parent || id != test.id {
			t.Errorf("%s: tag %d at interface %d", test.name, id, parent)
		}
	}
}
