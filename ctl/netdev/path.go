package netdev

import (
	"fmt"
	"slices"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"gardu/ctl/model"
)

// XDPSupport tells whether a driver runs XDP programs itself.
type XDPSupport uint8

const (
	XDPUnknown XDPSupport = iota // the kernel doesn't tell (before 6.3) and the driver is not on our list
	XDPNone                      // only generic XDP
	XDPNative                    // native, with redirect
)

func (s XDPSupport) String() string {
	return [...]string{"unknown", "none", "native"}[s]
}

// unfinished lists drivers and kinds whose received packets may still carry a partial checksum, with the words for it:
// the sender left it to a device that never touches a wire. The kernel finishes such packets on its way out, XDP
// can't: it doesn't see that anything is missing.
func unfinished(name string) (string, bool) {
	switch name {
	case "veth":
		return "its peer", true
	case "virtio_net", "xen_netfront", "vif":
		return "the host and its other guests", true
	case "tun", "tap", "macvtap":
		return "the program behind it", true
	}
	return "", false
}

// ChoosePath says what `path: auto` means for a link, and why in words for people. It chooses XDP only where it is
// native and where what arrives is complete, as on a wire.
func ChoosePath(l Link) (model.Path, string) {
	for _, name := range []string{l.Kind, l.Driver} {
		if sender, ok := unfinished(name); ok {
			return model.PathTC, fmt.Sprintf("%s: %s may leave checksums partial, and partial checksums would be sent broken by XDP", name, sender)
		}
	}
	switch {
	case l.Loopback:
		return model.PathTC, "loopback: no driver to run XDP"
	case l.Kind != "":
		return model.PathTC, fmt.Sprintf("%s: a virtual interface; what it hands on may carry partial checksums", l.Kind)
	case l.XDP == XDPNative:
		return model.PathXDP, fmt.Sprintf("driver %s runs XDP natively", l.Driver)
	case l.XDP == XDPNone:
		return model.PathTC, fmt.Sprintf("driver %s has no native XDP, and tc is faster than generic XDP", orUnnamed(l.Driver))
	default:
		return model.PathTC, fmt.Sprintf("driver %s is not known to run XDP natively", orUnnamed(l.Driver))
	}
}

// PathForTags corrects the choice for rules on VLAN tags: what the NIC takes off the kernel hands on beside the packet, which tc
// sees and XDP doesn't. why is "" when the path is fine as it is.
func PathForTags(l Link, path model.Path, rule string) (corrected model.Path, why string) {
	if rule == "" || path != model.PathXDP || !l.StripsVLAN {
		return path, ""
	}
	return model.PathTC, fmt.Sprintf("rule %s matches on vlan, and the NIC takes tags off before XDP sees them (ethtool -K %s rxvlan off)", rule, l.Name)
}

func orUnnamed(driver string) string {
	if driver == "" {
		return "(unnamed)"
	}
	return driver
}

// Features of the generic netlink family "netdev", since Linux 6.3 (include/uapi/linux/netdev.h).
const (
	netdevCmdDevGet      = 1
	netdevAttrIfindex    = 1
	netdevAttrXDP        = 3
	netdevXDPActBasic    = 1
	netdevXDPActRedirect = 2
	netdevXDPActXmit     = 4
)

// xdpSupport asks the kernel what the driver can do, and a kernel that can't answer (before 6.3) by the driver's name.
func (h *Handle) xdpSupport(index int, driver string) (runs, sends XDPSupport) {
	features, ok := h.xdpFeatures(index)
	if !ok {
		if slices.Contains(nativeDrivers(), driver) {
			return XDPNative, XDPUnknown
		}
		return XDPUnknown, XDPUnknown
	}
	has := func(needed uint64) XDPSupport {
		if features&needed == needed {
			return XDPNative
		}
		return XDPNone
	}
	return has(netdevXDPActBasic | netdevXDPActRedirect), has(netdevXDPActXmit)
}

func (h *Handle) xdpFeatures(index int) (features uint64, ok bool) {
	family, err := h.genlFamily("netdev")
	if err != nil {
		return 0, false
	}
	req := h.request(int(family), 0)
	req.AddData(genlCommand(netdevCmdDevGet))
	req.AddData(nl.NewRtAttr(netdevAttrIfindex, nl.Uint32Attr(uint32(index))))
	replies, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil || len(replies) == 0 {
		return 0, false
	}
	value, ok := genlAttr(replies[0], netdevAttrXDP)
	if !ok || len(value) < 8 {
		return 0, false
	}
	return nl.NativeEndian().Uint64(value), true
}

// genlCommand is the header of a generic netlink request. (Genlmsg of nl has two bytes and sends the two behind them in memory as well; the
// kernel wants zeros there, and refuses other requests: EINVAL, now and then.)
type genlCommand uint8

func (genlCommand) Len() int { return nl.SizeofGenlmsg }

func (c genlCommand) Serialize() []byte { return []byte{byte(c), 1, 0, 0} }

// genlFamily returns the number under which a generic netlink family is registered.
func (h *Handle) genlFamily(name string) (uint16, error) {
	req := h.request(unix.GENL_ID_CTRL, 0)
	req.AddData(genlCommand(unix.CTRL_CMD_GETFAMILY))
	req.AddData(nl.NewRtAttr(unix.CTRL_ATTR_FAMILY_NAME, nl.ZeroTerminated(name)))
	replies, err := req.Execute(unix.NETLINK_GENERIC, 0)
	if err != nil {
		return 0, fmt.Errorf("generic netlink family %s: %w", name, err)
	}
	for _, reply := range replies {
		if value, ok := genlAttr(reply, unix.CTRL_ATTR_FAMILY_ID); ok && len(value) >= 2 {
			return nl.NativeEndian().Uint16(value), nil
		}
	}
	return 0, fmt.Errorf("generic netlink family %s: no id in the answer", name)
}

func genlAttr(message []byte, attr uint16) ([]byte, bool) {
	if len(message) < nl.SizeofGenlmsg {
		return nil, false
	}
	attrs, err := nl.ParseRouteAttr(message[nl.SizeofGenlmsg:])
	if err != nil {
		return nil, false
	}
	for _, a := range attrs {
		if a.Attr.Type == attr {
			return a.Value, true
		}
	}
	return nil, false
}

func (h *Handle) request(proto, flags int) *nl.NetlinkRequest {
	req := nl.NewNetlinkRequest(proto, flags)
	req.Sockets = h.sockets
	return req
}

// nativeDrivers run XDP with redirect in Linux 6.1, the oldest kernel that gardu supports.
func nativeDrivers() []string {
	return []string{
		"atlantic", "bnxt_en", "dpaa2-eth", "ena", "fec", "fsl_dpa", "fsl_enetc", "gve", "hv_netvsc", "i40e", "ice", "igb",
		"igc", "ixgbe", "ixgbevf", "mlx4_en", "mlx5_core", "mvneta", "mvpp2", "netsec", "nfp", "nicvf", "octeontx2-nicpf",
		"octeontx2-nicvf", "qede", "rvu_nicpf", "rvu_nicvf", "sfc", "stmmac", "st_gmac", "tsnep", "mana", "mtk_soc_eth",
	}
}
