package netdev_test

import (
	"strings"
	"testing"

	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

func TestChoosePath(t *testing.T) {
	for _, c := range []struct {
		link netdev.Link
		want model.Path
		why  string
	}{
		{netdev.Link{Kind: "veth", Driver: "veth", XDP: netdev.XDPNative}, model.PathTC, "partial checksums would be sent broken by XDP"},
		{netdev.Link{Driver: "virtio_net", XDP: netdev.XDPNative}, model.PathTC, "the host and its other guests"},
		{netdev.Link{Kind: "tuntap", Driver: "tun", XDP: netdev.XDPNative}, model.PathTC, "partial checksums"},
		{netdev.Link{Kind: "bridge", Driver: "bridge", XDP: netdev.XDPNone}, model.PathTC, "virtual interface"},
		{netdev.Link{Loopback: true}, model.PathTC, "loopback"},
		{netdev.Link{Driver: "ice", XDP: netdev.XDPNative}, model.PathXDP, "driver ice runs XDP natively"},
		{netdev.Link{Driver: "e1000e", XDP: netdev.XDPNone}, model.PathTC, "no native XDP"},
		{netdev.Link{Driver: "strange", XDP: netdev.XDPUnknown}, model.PathTC, "not known"},
		{netdev.Link{XDP: netdev.XDPUnknown}, model.PathTC, "(unnamed)"},
	} {
		path, why := netdev.ChoosePath(c.link)
		if path != c.want || !strings.Contains(why, c.why) {
			t.Errorf("%+v: got %s because %q, want %s because %q", c.link, path, why, c.want, c.why)
		}
	}
}
