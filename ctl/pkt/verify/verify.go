package verify

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// portGUE is what tunnels of forward: gue go to, whose outer UDP checksum may be left out over IPv6.
const portGUE = 6080

// Frame decodes a frame with gopacket, which shares no code with package pkt, and checks every length and
// checksum in it, inside tunnels too. Fragments are checked up to their IP header. nil says that the frame is right.
func Frame(frame []byte) error {
	packet := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	failure := packet.ErrorLayer()
	switch {
	case failure != nil && packet.TransportLayer() == nil: // behind it, what UDP and TCP carry is free
		return fmt.Errorf("decode %s: %w", failure.LayerType(), failure.Error())
	case failure == nil && packet.Metadata().Truncated:
		return errors.New("decode: the frame is shorter than its headers say")
	}
	var network gopacket.NetworkLayer
	var wrong []error
	for _, layer := range packet.Layers() {
		if ip, ok := layer.(gopacket.NetworkLayer); ok {
			network = ip
		}
		if err := verifyLayer(layer, network); err != nil {
			wrong = append(wrong, err)
		}
	}
	return errors.Join(wrong...)
}

// checksumAt is the offset of the checksum in a layer's header.
func checksumAt(layer gopacket.Layer) int {
	switch layer.LayerType() {
	case layers.LayerTypeIPv4:
		return 10
	case layers.LayerTypeTCP:
		return 16
	case layers.LayerTypeUDP:
		return 6
	}
	return 2 // ICMP, ICMPv6
}

// verifyLayer encodes a layer anew, checksum included, and compares.
func verifyLayer(layer gopacket.Layer, network gopacket.NetworkLayer) error {
	udp, ok := layer.(*layers.UDP)
	if ok && udp.Checksum == 0 && (network.LayerType() == layers.LayerTypeIPv4 || udp.DstPort == portGUE) {
		return nil // none: RFC 768, and for tunnels over IPv6 RFC 6935
	}
	if pseudo, ok := layer.(interface {
		SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
	}); ok {
		if err := pseudo.SetNetworkLayerForChecksum(network); err != nil {
			return fmt.Errorf("check %s: %w", layer.LayerType(), err)
		}
	}
	switch layer.(type) {
	case *layers.IPv4, *layers.TCP, *layers.UDP, *layers.ICMPv4, *layers.ICMPv6:
	default:
		return nil
	}
	if len(layer.LayerContents()) == 0 {
		return fmt.Errorf("%s header is cut short", layer.LayerType())
	}
	want := append(bytes.Clone(layer.LayerContents()), layer.LayerPayload()...)
	buffer := gopacket.NewSerializeBuffer()
	payload := gopacket.Payload(layer.LayerPayload())
	options := gopacket.SerializeOptions{ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buffer, options, layer.(gopacket.SerializableLayer), payload); err != nil {
		return fmt.Errorf("check %s: %w", layer.LayerType(), err)
	}
	header, at := len(layer.LayerContents()), checksumAt(layer)
	if bytes.Equal(want[at:at+2], []byte{0xff, 0xff}) && bytes.Equal(buffer.Bytes()[at:at+2], []byte{0, 0}) {
		copy(want[at:], []byte{0, 0}) // the same number, RFC 1624 section 3
	}
	if !bytes.Equal(buffer.Bytes(), want) {
		return fmt.Errorf("%s header is %x, should be %x", layer.LayerType(), want[:header], buffer.Bytes()[:header])
	}
	return nil
}
