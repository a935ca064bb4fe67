package netdev

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// driver returns the driver's name, or "" for links without ethtool operations.
func (h *Handle) driver(name string) string {
	info, err := unix.IoctlGetEthtoolDrvinfo(h.inet, name)
	if err != nil {
		return ""
	}
	return unix.ByteSliceToString(info.Driver[:])
}

// offload reads one of the on-off settings; a link that doesn't know it has it off.
func (h *Handle) offload(name string, get uint32) bool {
	on, err := h.ethtoolValue(name, get, 0)
	return err == nil && on != 0
}

// StripsVLAN says whether an interface takes VLAN tags off what it receives; one that isn't there doesn't.
func (h *Handle) StripsVLAN(name string) bool {
	link, err := h.Link(name)
	return err == nil && link.StripsVLAN
}

// ETH_FLAG_RXVLAN and ETH_FLAG_LRO of include/uapi/linux/ethtool.h.
const (
	flagRxVLAN = 1 << 8
	flagLRO    = 1 << 15
)

func (h *Handle) flag(name string, flag uint32) bool {
	flags, err := h.ethtoolValue(name, unix.ETHTOOL_GFLAGS, 0)
	return err == nil && flags&flag != 0
}

// SetTxChecksum turns the checksum offload of sent packets on or off (ethtool -K NAME tx on|off). XDP programs that
// forward what a veth peer or a virtual machine's host sends need it off at the sender.
func (h *Handle) SetTxChecksum(name string, on bool) error {
	return h.setOffload("tx-checksum", name, unix.ETHTOOL_STXCSUM, on)
}

// SetGRO turns the bundling of received segments on or off (ethtool -K NAME gro on|off). On a veth it brings NAPI,
// without which an XDP program at the peer can't send to it.
func (h *Handle) SetGRO(name string, on bool) error {
	return h.setOffload("GRO", name, unix.ETHTOOL_SGRO, on)
}

func (h *Handle) setOffload(what, name string, set uint32, on bool) error {
	var value uint32
	if on {
		value = 1
	}
	if _, err := h.ethtoolValue(name, set, value); err != nil {
		return fmt.Errorf("set %s of %s: %w", what, name, linkError(err))
	}
	return nil
}

// ethtoolValue does one of the ethtool commands that take and return a struct ethtool_value.
func (h *Handle) ethtoolValue(name string, command, value uint32) (uint32, error) {
	if len(name) >= unix.IFNAMSIZ {
		return 0, unix.ENODEV
	}
	arg := struct{ command, data uint32 }{command, value}
	request := struct {
		name [unix.IFNAMSIZ]byte
		arg  unsafe.Pointer
		pad  [16]byte
	}{arg: unsafe.Pointer(&arg)}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(h.inet), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	runtime.KeepAlive(&arg)
	if errno != 0 {
		return 0, errno
	}
	return arg.data, nil
}
