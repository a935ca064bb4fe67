// Package lint tells what a snapshot does on this machine that its author hardly means: rules that ask for VLAN tags which are gone by
// then, and what it would cut off that the box and the person at it need, the connection by which they manage it and its name
// servers. It asks the reference model about the packets of those, so it knows every field and action that the model
// knows. What rules say about each other is in package rule.
package lint
