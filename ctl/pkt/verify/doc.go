// Package verify checks frames with a second, independent decoder. Only tests use it: the tables of protocols that gopacket fills when a
// program starts are of no use to gardu.
package verify
