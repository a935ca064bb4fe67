// Package ipfix writes reports of flows as IPFIX messages (RFC 7011): both directions of a flow in one record (RFC 5103), and
// options that say how packets were sampled, what was not sent, and what rules, services, backends and interfaces are called.
//
// Elements are IANA's, so that collectors know them by name:
//
//	rule       selectorId, named by selectorName (a rule is a filter as in RFC 5475)
//	service    applicationId of the engine USER-Defined (RFC 6759), named by applicationName
//	backend    ipNextHop address, named by virtualStationName
//	interface  ingressInterface, or egressInterface of what the box itself sent, named by interfaceName
//	verdict    forwardingStatus
//
// IANA has none for handshake times. ntop's are what collectors know, CLIENT_NW_LATENCY_MS and SERVER_NW_LATENCY_MS, but they are half the
// way there and back in milliseconds, which is 0 within a building; so the time of the whole handshake goes with them, in
// microseconds, as FastIP's TCP_HANDSHAKE_RTT_USEC. For retransmissions there is none that counts since the last record.
package ipfix
