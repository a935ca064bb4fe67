package netdev_test

import (
	"strings"
	"testing"

	"gardu/ctl/model"
	"gardu/ctl/netdev"
)

func TestPathForTags(t *testing.T) {
	strips := netdev.Link{Name: "eth0", StripsVLAN: true}
	for _, c := range []struct {
		link netdev.Link
		path model.Path
		rule string
		want model.Path
	}{
		{strips, model.PathXDP, "tagged", model.PathTC},
		{strips, model.PathXDP, "", model.PathXDP},
		{strips, model.PathTC, "tagged", model.PathTC},
		{netdev.Link{Name: "eth0"}, model.PathXDP, "tagged", model.PathXDP},
	} {
		path, why := netdev.PathForTags(c.link, c.path, c.rule)
		if path != c.want || (why != "") != (path != c.path) {
			t.Errorf("%+v, %s, rule %q: got %s because %q, want %s", c.link, c.path, c.rule, path, why, c.want)
		}
	}
}

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
