// Package pkt turns the PACKET text that people write into a frame and a frame back into that text, and reads
// and writes captures.
//
// A PACKET is a head and options, separated by blanks; [Help] lists them:
//
//	tcp 198.51.100.7:40000 > 192.0.2.10:443 syn
//	udp [2001:db8::1]:53 > [2001:db8::2]:4000 len 100 ttl 3
//	icmp 192.0.2.1 > 192.0.2.2 echo-request id 7
//	ip 2001:db8::1 > 2001:db8::2 proto 50 ext hbh frag later
//	arp who-has 192.0.2.10 tell 192.0.2.1 vlan 10
//	ipip 10.0.0.1 > 10.0.0.11 carries tcp 198.51.100.7:40000 > 192.0.2.10:443 syn
//	hex 02000000000202000000000186dd...
//
// The grammar is closed: [Describe] writes every frame as a PACKET that [Parse] turns back into the same bytes. What
// the words don't cover it gives one layer lower: `ip ... data HEX`, `ether 0x0800 data HEX`, at last `hex HEX`.
package pkt
