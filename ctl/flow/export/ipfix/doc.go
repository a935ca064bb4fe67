// Package ipfix writes reports of flows as IPFIX messages (RFC 7011): both directions of a flow in one record (RFC 5103), and
// options that say how packets were sampled, what was not sent, and what rules, services, backends and interfaces are called.
//
// Every element is IANA's, so that collectors know them by name:
//
//	rule       selectorId, named by selectorName (a rule is a filter as in RFC 5475)
//	service    applicationId of the engine USER-Defined (RFC 6759), named by applicationName
//	backend    ipNextHop address, named by virtualStationName
//	interface  ingressInterface, or egressInterface of what the box itself sent, named by interfaceName
//	verdict    forwardingStatus
//
// There is none for handshake times and retransmissions.
package ipfix
