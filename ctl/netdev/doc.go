// Package netdev is what gardu knows of the kernel's network devices: links with the facts that matter to a packet
// program, addresses, the next hop towards a backend, changes of all these, and classic tc filters for kernels
// without TCX. No other package speaks rtnetlink.
package netdev
